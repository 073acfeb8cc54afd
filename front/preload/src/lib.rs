//! LD_PRELOAD symbols onto interpose.
