"""What the cards of the embedded models claim, measured again on held-out data.

Each recipe knows how to evaluate what it made; this study runs those measurements on inputs that no recipe trained on,
puts an interval and the controls beside each, and compares with the gate that the model had to pass to be shipped.
"""
