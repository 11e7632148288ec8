"""Sentences on the core: score, rank, repair, sample.

    from ebrl import sequences

    sequences.score(["The cat sat on the mat."])[0].total      # -log p, in nats
    sequences.repair("The cat sat in on mat.").text

Needs the extra `sequences`: pip install 'ebrl[sequences]'.
"""
