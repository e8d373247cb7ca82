"""One importer per format of interaction data."""
