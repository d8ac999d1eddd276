"""Text-to-image: captions become sharded sets of pictures, several of each caption."""
