"""Text to prompt to tokens: templates, chat tokens, and what each role of the model is asked."""
