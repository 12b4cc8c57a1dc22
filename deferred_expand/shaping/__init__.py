"""What becomes of a stream's items on their way: filter, map, flat_map, and several streams in one."""
