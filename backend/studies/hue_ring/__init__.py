"""Is a ring that a block-sparse featurizer finds without labels a control of the object's hue?"""
