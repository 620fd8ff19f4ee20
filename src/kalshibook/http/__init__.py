"""REST, health, metrics and the page: Quart-Trio on Hypercorn, attached to any store."""
