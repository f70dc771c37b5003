"""coat_ryu: live migration of containers with their TCP connections, as a Ryu application."""
