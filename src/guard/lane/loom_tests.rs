//! Models of the lane, checked by loom over every interleaving.
