"""Do the embedded models have attention sinks, and what do those compute?

Sinks of ``calendar-llama`` and ``tabletop-dino`` by the rules of "A Unifying View of Attention Sinks" (arXiv
2606.08105) and, for the first token of a language model, of Gu et al. (arXiv 2410.10781): α = mean attention to the
first token over the queries i ≥ 8, a sink where α > 0.3. Controls: a copy with fresh weights, uniform attention, and
``stories260k``, a real language model known to have no first-token sink.

The strongest head is chosen on one half of the inputs and measured on the other, so that choosing costs no bias.
"""
