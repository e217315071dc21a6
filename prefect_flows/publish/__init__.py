"""Publishing: models are built where no reader looks, tested there, and then shown to readers."""
