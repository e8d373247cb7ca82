"""A comparison as an HTML report, with its charts, words and colours."""
