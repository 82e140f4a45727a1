"""Insertions: chosen tokens written over known spans of the training stream, planned once and audited afterwards."""
