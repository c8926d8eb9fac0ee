"""From scores to words: n-gram language models, CTC and transducer beam search, tokens of a text."""
