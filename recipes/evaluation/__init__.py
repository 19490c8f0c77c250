"""Pages scored as OmniDocBench v1.5 scores them, from its ground truth and a folder of Markdown files."""
