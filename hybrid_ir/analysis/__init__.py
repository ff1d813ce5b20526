"""What runs show beside each other: intervals and tests over questions, tables. Imports no torch."""
