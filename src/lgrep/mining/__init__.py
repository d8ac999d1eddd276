"""Finding neighbours among captions or pictures."""
