"""What takes minutes before a method's first step."""
