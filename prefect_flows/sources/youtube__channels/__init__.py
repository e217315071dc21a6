"""Source youtube__channels: YouTube channels, their videos and daily statistics."""
