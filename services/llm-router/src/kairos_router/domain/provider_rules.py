"""What deployments may say to providers, whoever they belong to."""

# Those that know no other credential than the key they are given; organisations may use these with theirs.
KEY_ONLY = frozenset(
    {
        "anthropic",
        "cohere",
        "deepseek",
        "fireworks_ai",
        "gemini",
        "groq",
        "mistral",
        "openrouter",
        "perplexity",
        "together_ai",
        "xai",
    }
)
# What says where a request ends, and what becomes of its connection, is ours to say.
FRAMING = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
