"""What a configured model consists of and costs."""
