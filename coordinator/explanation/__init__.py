"""Why the verdict is what it is, in words: rules write a complete explanation, a language model may better it."""
