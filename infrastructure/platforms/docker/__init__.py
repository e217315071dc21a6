"""What the image is built with, and what its containers start with."""
