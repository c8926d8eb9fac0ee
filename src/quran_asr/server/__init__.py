"""A page that follows a reciter: sessions, their protocol, and the web server."""
