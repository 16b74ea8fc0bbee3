"""What several tests need: peers, servers, commands, browsers, and less of Linux."""
