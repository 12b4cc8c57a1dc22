"""What a stream's task instances do on workers, given its definition."""
