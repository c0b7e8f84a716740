"""The language-model service: vLLM behind maifs.llm.v1."""
