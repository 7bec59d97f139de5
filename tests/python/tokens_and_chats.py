"""Tokens and chats: the command must give those that transformers gives for the same files.

    tokens_and_chats.py BETAEDIT OUT_DIR

Makes tokenizers of every kind that models of the families that the command reads have, with and without tokens around a
text, each beside a model of one block, and compares `betaedit tokens` with `AutoTokenizer` on odd texts. Then it compares
`betaedit tokens --chat` with `apply_chat_template`: the text and its tokens, for templates that use what published ones
use. Where transformers fails, the command must fail and say what the template says.

Ends with 1 on any difference. Needs numpy, safetensors, transformers and Jinja2, and no torch.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

# The command tells the time in UTC.
os.environ["TZ"] = "UTC"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "critical"

import numpy
import transformers
from odd_texts import BETWEEN_TEXTS, REGEXES, TEXTS, TRAINED_ON
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

BOS, EOS = "<s>", "</s>"
SPECIAL = ["<unk>", BOS, EOS, BETWEEN_TEXTS, "<|im_start|>", "<|im_end|>"]
# No special tokens, and in texts all the same.
ADDED = ["<think>", "</think>"]


def byte_level(*before, normalizer=None, use_regex=True):
    """BPE over bytes, behind other ways of cutting a text."""
    made = Tokenizer(models.BPE())
    if normalizer:
        made.normalizer = normalizer
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    made.pre_tokenizer = pre_tokenizers.Sequence([*before, bytes_]) if before else bytes_
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(TRAINED_ON, trainer)
    return made


def split(name):
    return pre_tokenizers.Split(Regex(REGEXES[name]), "isolated")


def with_bytes(made):
    """A token for each byte, for characters that are not in the vocabulary."""
    content = json.loads(made.to_str())
    model, bytes_ = content["model"], [f"<0x{byte:02X}>" for byte in range(256)]
    model["byte_fallback"] = True
    if model["type"] == "BPE":
        model["vocab"] |= {byte: len(model["vocab"]) + i for i, byte in enumerate(bytes_)}
    else:
        # Sums of rounded scores are exact: two cuts of a text that are equally good are so in every order of adding.
        model["vocab"] = [[piece, round(256 * score) / 256] for piece, score in model["vocab"]]
        model["vocab"] += [[byte, -20.0] for byte in bytes_]
    return Tokenizer.from_str(json.dumps(content))


def of_pieces(model, trainer, **settings):
    """Words with the space in front of them as `▁`, as SentencePiece has them."""
    made = Tokenizer(model)
    for name, value in settings.items():
        setattr(made, name, value)
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.train_from_iterator(TRAINED_ON, trainer)
    return with_bytes(made)


def sentence_pieces(**settings):
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIAL, limit_alphabet=120, show_progress=False)
    return of_pieces(models.BPE(unk_token="<unk>", fuse_unk=True), trainer, **settings)


def unigram(**settings):
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    return of_pieces(models.Unigram(), trainer, **settings)


LIKE_LLAMA_2 = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
DIGITS = pre_tokenizers.Digits(individual_digits=True)
KINDS = {
    "GPT-2": byte_level,
    "SmolLM2": lambda: byte_level(DIGITS),
    "Llama 3": lambda: byte_level(split("Llama 3"), use_regex=False),
    "Qwen2": lambda: byte_level(split("Qwen 2"), normalizer=normalizers.NFC(), use_regex=False),
    "cl100k": lambda: byte_level(split("cl100k"), use_regex=False),
    "o200k": lambda: byte_level(split("o200k"), use_regex=False),
    "Llama 2": lambda: sentence_pieces(normalizer=LIKE_LLAMA_2),
    "Mistral": lambda: sentence_pieces(pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
    "Gemma": lambda: sentence_pieces(normalizer=normalizers.Replace(" ", "▁")),
    "Unigram": lambda: unigram(pre_tokenizer=pre_tokenizers.Metaspace()),
    "Unigram, NFKC": lambda: unigram(normalizer=normalizers.NFKC(), pre_tokenizer=pre_tokenizers.Metaspace()),
}
# Tokens around a text.
AROUND = {"nothing": ([], []), "bos": ([BOS], []), "bos and eos": ([BOS], [EOS]), "eos": ([], [EOS])}


def write_tokenizer(made, folder, around):
    before, after = AROUND[around]
    made.add_tokens([AddedToken(token, special=False, normalized=False) for token in ADDED])
    ids = {token: made.token_to_id(token) for token in (BOS, EOS)}
    if before or after:
        single = " ".join([*before, "$A", *after])
        made.post_processor = processors.TemplateProcessing(single, f"{single} $B", list(ids.items()))
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    # What the entry says does not count beside tokenizer.json.
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOS, "unk_token": "<unk>"}
    config |= {"add_bos_token": not before, "add_eos_token": not after, "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    write_model(folder, max(made.get_vocab(with_added_tokens=True).values()) + 1)
    return [ids[token] for token in after]


def write_model(folder, size):
    """A Llama of one block, whose numbers do not matter."""
    width = 8
    config = dict(architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=size, hidden_size=width)
    config |= dict(intermediate_size=width, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1)
    config |= dict(tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, max_position_embeddings=64)
    (folder / "config.json").write_text(json.dumps(config))
    square, vector = numpy.eye(width, dtype=numpy.float32), numpy.ones(width, dtype=numpy.float32)
    names = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
    tensors = {f"model.layers.0.{name}.weight": square for name in names}
    tensors |= {f"model.layers.0.{name}_layernorm.weight": vector for name in ("input", "post_attention")}
    tensors |= {"model.norm.weight": vector, "model.embed_tokens.weight": numpy.ones((size, width), dtype=numpy.float32)}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def asked(betaedit, folder, texts, *flags):
    """Texts and tokens by the command, or its message."""
    file = folder / "texts.json"
    file.write_text(json.dumps(texts))
    command = [betaedit, "tokens", "--model", folder, "--texts", file, "--json", *flags]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if answer.returncode != 0:
        return None, f"exit {answer.returncode}: {answer.stderr.strip()}"
    return json.loads(answer.stdout)["texts"], ""


def differing_tokens(betaedit, out):
    for kind, make in KINDS.items():
        for around in AROUND:
            folder = out / "tokenizers" / f"{kind} {around}".replace(" ", "-").replace(",", "")
            after = write_tokenizer(make(), folder, around)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            found, message = asked(betaedit, folder, TEXTS)
            if found is None:
                yield f"{kind}, {around}: {message}"
                continue
            for text, one in zip(TEXTS, found, strict=True):
                ids = tokenizer(text).input_ids
                assert ids[len(ids) - len(after) :] == after
                expected = ids[: len(ids) - len(after)]
                if one["ids"] != expected:
                    yield f"{kind}, {around}: {text!r}: {one['ids'][:12]}..., transformers {expected[:12]}..."


USER = {"role": "user", "content": "Where is the Eiffel Tower?"}
ANSWER = {"role": "assistant", "content": "<think>\nIt is old.\n</think>\n\n It is in Paris.\n"}
AGAIN = {"role": "user", "content": "  And Big Ben,\nthe clock? "}
SYSTEM = {"role": "system", "content": " You are \"brief\" & <b>kind</b>.\n\n"}
ODD = ["", " ", "Москва — столица. 東京は首都です。 😀 नमस्ते", "tab\tquote \" back\\slash \x01 \x7f é é", "<|im_end|>\n<|im_start|>system\nNo</s>"]
ODD += ["{{ messages }} {% raw %}", "it's DON'T o'clock ÉCOLE straße", "a  b\u00a0c\u3000d\u2028e\x0bf\r\ng", "%s %d %% 100%"]
CHATS = [
    [USER],
    [SYSTEM, USER],
    [USER, ANSWER, AGAIN],
    [SYSTEM, USER, ANSWER, AGAIN],
    [SYSTEM, USER, ANSWER, AGAIN, ANSWER, USER],
    [SYSTEM],
    [USER, AGAIN],
    [USER, ANSWER],
    *([{"role": "user", "content": text}] for text in ODD),
    *([{"role": "system", "content": text}, USER, {"role": "assistant", "content": text}, AGAIN] for text in ODD),
]

# Written for this test, of what published templates are made of.
TEMPLATES = {
    "turns": "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "a system message where there is none": """{% for message in messages %}
{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
    {% endfor %}
  {% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}{% endif %}
""",
    "a date": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools_in_user_message is defined %}{%- set tools_in_user_message = true %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "[system]\\n\\nToday is " + date_string + strftime_now(", %A %-d %B %y") + "\\n\\n" + system_message + "[end]" }}
{%- if tools is not none and not tools_in_user_message %}{{ tools }}{% endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '[' + message['role'] + ']\\n\\n'+ message['content'] | trim + '[end]' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '[assistant]\\n\\n' }}{%- endif %}
""",
    "turns that must alternate": """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}
{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}
{% for message in loop_messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Roles must alternate: user/assistant/user/assistant/...') }}{% endif %}
{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}
{% else %}{% set content = message['content'] %}{% endif %}
{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}""",
    "no system message": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}
{{ '<turn>' + role + '\n' + message['content'] | trim + '</turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<turn>model\n'}}{% endif %}""",
    "thoughts": """{%- set ns = namespace(multi_step=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step and message.role == "user" and message.content is string and not(message.content.startswith('[x]') and message.content.endswith('[/x]')) %}
        {%- set ns.multi_step = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "assistant" %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or (not loop.last and reasoning)) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}""",
    "generation": """{% for message in messages %}
    {%- if message['role'] == 'assistant' -%}
        {% generation %}{{ message['content'] }}
        {%- endgeneration %}
        {%- generation -%} {{ eos_token }} {%- endgeneration -%}
    {%- else -%}
        {{ message['content'] }}
    {% endif %}
    {%+ if loop.last %} last {%+ endif %}
{% endfor %}
{# a comment {% generation %} #}
end""",
    "tojson": """{% for message in messages %}{{ message | tojson }} {{ message.content | tojson(indent=4) }} {{ message.content | tojson(ensure_ascii=True) }}
{% endfor %}{{ messages | tojson(indent=2) }}{{ {'b': [1, 2.5, true, none, []], 'a': {}} | tojson }}{{ [1, 'é'] | tojson(ensure_ascii=false) }}
{{ messages | map(attribute='content') | list | tojson }}""",
    "methods": """{% for message in messages %}{% set c = message.content %}
{{ c.strip() }}|{{ c.lstrip() }}|{{ c.rstrip() }}|{{ c.strip(' .a') }}|{{ c.upper() }}|{{ c.lower() }}|{{ c.title() }}|{{ c.capitalize() }}
{{ c.split() | join('/') }}|{{ c.split(' ') | join('/') }}|{{ c.split(' ', 1) | join('/') }}|{{ c.splitlines() | join('/') }}
{{ c.replace('a', 'A') }}|{{ c.find('e') }}|{{ c.count('e') }}|{{ ', '.join(c.split()) }}
{% if c.startswith('W') %}W{% endif %}{% if c.endswith(' ') %}space{% endif %}{% if c.isdigit() or c.isspace() %}odd{% endif %}
{% if 'role' in message and 'tools' not in message %}{{ message.get('role') }}{{ message.get('tools', '-') }}{% endif %}
{% for key, value in message.items() %}{{ key }}={{ value }};{% endfor %}{{ message.keys() | list | join(',') }}
{{ c[1:] }}|{{ c[:-2] }}|{{ c[::-1] }}|{{ c[-3:] }}|{{ c | length }}
{% endfor %}""",
    "filters": """{% for message in messages %}{% set c = message.content %}
{{ c | trim }}|{{ c | upper }}|{{ c | lower }}|{{ c | title }}|{{ c | capitalize }}|{{ c | replace('e', 'E') }}|{{ c | length }}
{{ c | first }}|{{ c | last }}|{{ c | default('none') }}|{{ nothing | default('none') }}|{{ c | string }}|{{ c | indent(2) }}|{{ c | indent(2, true) }}
{{ c | safe }}|{{ c | list | join('.') }}|{{ c | reverse }}|{{ '%s and %s' | format(c, 1) }}
{% endfor %}
{{ messages | map(attribute='role') | unique | join(', ') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{{ messages | rejectattr('role', 'equalto', 'user') | map(attribute='content') | join('|') }} {{ messages | first | length }}
{{ [3, 1, 2] | sort | join }} {{ [3, 1, 2] | max }} {{ '3' | int + 1 }} {{ [1, 2] | sum }} {{ {'b': 1, 'a': 2} | dictsort | map('first') | join }}""",
    "loops": """{% macro turn(message, n=0) %}[{{ n }} {{ message.role }}{{ caller() if caller else '' }}]{% endmacro %}
{% for message in messages if message.role != 'system' %}
{{ turn(message, n=loop.index) }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.length }}{{ loop.cycle('x', 'y') }}
{%- if loop.previtem is defined and loop.previtem.role == message.role %} same{% endif %}{% if loop.nextitem is defined %} more{% endif %}
{% if loop.index > 3 %}{% break %}{% endif %}{% if message.role == 'assistant' %}{% continue %}{% endif %} after
{% else %}nobody{% endfor %}
{% for i in range(2, 7, 2) %}{{ i }}{{ ',' if not loop.last }}{% endfor %}
{% set ns = namespace() %}{% set ns.found = false %}{% for m in messages %}{% if m.role == 'assistant' %}{% set ns.found = true %}{% endif %}{% endfor %}
{% if ns.found %}found{% endif %}{% set x %}captured {{ messages | length }}{% endset %}{{ x }}{% filter upper %}loud{% endfilter %}
{% raw %}{{ raw }}{% endraw %}{% if messages is iterable and messages is not mapping and messages[0] is mapping %} kinds{% endif %}
{% with a = 1, b = 2 %}{{ a + b }}{% endwith %} {{ 7 // 2 }} {{ 7 % 3 }} {{ 7 / 2 }} {{ 2 ** 3 }} {{ -7 // 2 }} {{ 'a' ~ 1 ~ 'b' }} {{ 1 if none else 2 }} {{ 'x' * 3 }}""",
    "values as Python prints them": "{{ true }} {{ none }} {{ 1.0 }} {{ 1 == 1 }} {{ [1, 'a', none, true] }} {{ {'a': 1.5, 'b': \"it's\"} }} {{ (1, 2) }} "
    "{{ messages | map(attribute='role') | list }} {{ {'a': 'Ö 東'} }} {{ 'a' ~ true ~ none }} {{ [1] + [2] }} {{ nothing }}.",
    "unknown": "{{ nothing.more }}",
    "not a function": "{{ no_such_function(messages) }}",
}
# Those that must fail, with every chat.
FAIL = ["unknown", "not a function"]


def rendered(tokenizer, chat):
    """A chat by transformers, as a text and as tokens, or why not."""
    try:
        text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # whatever it is, there is no text
        return None, None, error
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True)
    return text, list(ids if isinstance(ids, list) else ids["input_ids"]), None


def shown(betaedit, folder, chats):
    """What the command makes of each chat, or its message."""
    together, _ = asked(betaedit, folder, chats, "--chat")
    if together is not None:
        return [(one, "") for one in together]
    alone = [asked(betaedit, folder, [chat], "--chat") for chat in chats]
    return [(one[0] if one else None, message) for one, message in alone]


def differing_chats(betaedit, out):
    for number, (name, template) in enumerate(TEMPLATES.items()):
        folder = out / "chats" / f"{number:02}"
        # A template begins a text as it likes, whatever is around other texts.
        write_tokenizer(KINDS["SmolLM2" if number % 2 else "Mistral"](), folder, "bos and eos")
        if number % 3:
            (folder / "chat_template.jinja").write_text(template)
        else:
            config = json.loads((folder / "tokenizer_config.json").read_text())
            (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        expected = [(chat, *rendered(tokenizer, chat)) for chat in CHATS]
        fine, failing = ([one for one in expected if (one[3] is None) == good] for good in (True, False))
        assert bool(fine) != (name in FAIL), f"{name}: {expected[0]}"

        for (chat, text, ids, _), (one, message) in zip(fine, shown(betaedit, folder, [chat for chat, *_ in fine]), strict=True):
            if one is None:
                yield f"{name}: {chat}: {message}"
            elif one["text"] != text and one["text"] != rendered(tokenizer, chat)[0]:  # the day may have passed
                yield f"{name}: {chat}:\n    {one['text']!r}\n    transformers\n    {text!r}"
            elif one["ids"] != ids and one["text"] == text:
                yield f"{name}: {chat}: {one['ids']}, transformers {ids}"
        for (chat, _, _, error), (one, message) in zip(failing, shown(betaedit, folder, [chat for chat, *_ in failing]), strict=True):
            said = str(error) if type(error).__name__ == "TemplateError" else "the chat template cannot be rendered"
            if one is not None or not message.startswith("exit 1:") or said not in message:
                yield f"{name}: {chat}: {one or message!r}, transformers {type(error).__name__}: {error}"


def main():
    betaedit, out = sys.argv[1], Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    wrong = [*differing_tokens(betaedit, out), *differing_chats(betaedit, out)]
    for one in wrong[:40]:
        print(one)
    counts = f"{len(KINDS)} kinds of tokenizers, {len(AROUND)} of each, {len(TEXTS)} texts; {len(TEMPLATES)} templates, {len(CHATS)} chats"
    print(f"{counts}: {len(wrong)} differences; transformers {transformers.__version__}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
