"""What comes with the package: texts for statistics and for perplexity, facts to edit, names."""

import json

from ._core import contrast_names, facts_json, held_out_text, statistics_text

__all__ = ["contrast_names", "facts", "held_out_text", "statistics_text"]


def facts():
    """Counterfactual facts as dictionaries, each with paraphrases and neighborhood prompts."""
    read = json.loads(facts_json())
    return read if isinstance(read, list) else read["records"]
