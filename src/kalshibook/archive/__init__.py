"""What the gatherers saw, kept for good: tables, writers, deduplicator, export, reading back."""
