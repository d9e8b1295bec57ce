"""What a model says: a table (`predictions`), its scores, what it is worth (`judge`), on disk (`bundle`), at work."""
