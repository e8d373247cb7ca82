"""Maps of users: projections, alignment, and nearest neighbours."""
