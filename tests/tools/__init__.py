"""What tests make for themselves: small models and reference results."""
