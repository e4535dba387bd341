"""MAX, Modular's server, as a supervised child (experimental). Nothing of it is imported in here."""
