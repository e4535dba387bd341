"""The commands' names, arguments and flags, as typer reads them; what they do is imported inside them."""
