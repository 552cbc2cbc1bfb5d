"""Ray itself: start, join, check, resources."""
