"""Does clamping the ring of light directions send the light where it is asked to go, and do the controls not?"""
