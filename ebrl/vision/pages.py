"""A page in a browser: a photograph before and after, with a slider between the two."""

from __future__ import annotations

import base64
import html
import io

from ebrl.vision.photograph import Photograph, to_pil

LOSSLESS = 1_000_000  # pixels up to which both images are PNG; larger ones are JPEG of quality 95
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
  body {{ margin: 1rem auto; max-width: 96vw; width: max-content; font: 1rem sans-serif;
         background: #222; color: #ddd }}
  figure {{ position: relative; margin: 0; line-height: 0; width: max-content }}
  figure img {{ max-width: 96vw; max-height: 85vh }}
  figure.large img {{ max-width: none; max-height: none; image-rendering: pixelated }}
  #before {{ position: absolute; left: 0; top: 0; clip-path: inset(0 50% 0 0) }}
  #edge {{ position: absolute; top: 0; bottom: 0; left: 50%; width: 2px; background: #fff }}
  input[type=range] {{ width: 100%; margin: .8rem 0 }}
</style>
<figure id="figure">
  <img id="after" alt="after" src="{after}">
  <img id="before" alt="before" src="{before}">
  <div id="edge"></div>
</figure>
<input type="range" id="slider" min="0" max="100" step="0.1" value="50" aria-label="before, after">
<p>{title}: before (left), after (right). {facts}
  <label><input type="checkbox" id="large"> every pixel</label></p>
<script>
  const part = id => document.getElementById(id);
  function show() {{
    const place = part("slider").value;
    part("before").style.clipPath = `inset(0 ${{100 - place}}% 0 0)`;
    part("edge").style.left = `${{place}}%`;
  }}
  part("slider").addEventListener("input", show);
  part("large").addEventListener("change", e => part("figure").classList.toggle("large"));
  part("figure").addEventListener("pointermove", event => {{
    if (event.buttons) {{
      const box = part("after").getBoundingClientRect();
      part("slider").value = 100 * (event.clientX - box.left) / box.width;
      show();
    }}
  }});
  part("figure").addEventListener("dragstart", event => event.preventDefault());
  show();
</script>
</html>
"""


def before_after_page(before: Photograph, after: Photograph, title: str, facts: str = "") -> str:
    """Return a self-contained HTML page that compares two 8-bit photographs of the same shape."""
    return PAGE.format(
        title=html.escape(title),
        facts=html.escape(facts),
        before=_address(before),
        after=_address(after),
    )


def _address(photograph: Photograph) -> str:
    """Return the image as a data address."""
    image = to_pil(photograph)
    stream = io.BytesIO()
    style = "PNG" if image.width * image.height <= LOSSLESS else "JPEG"
    image.save(stream, style, icc_profile=photograph.about.profile or None, quality=95)
    return f"data:image/{style.lower()};base64," + base64.b64encode(stream.getvalue()).decode()
