"""What ``python -m trio_beat check`` looks at, a module for each section that it prints."""
