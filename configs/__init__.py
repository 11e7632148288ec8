"""The configs that come with ebrl: `ebrl train pendulum` reads `pendulum.yaml`."""
