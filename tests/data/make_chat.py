"""Chats as transformers renders them: templates that use what published ones use, written for this test.

usage: make_chat.py     writes chat.json beside this file
"""
import json, os
from transformers.utils.chat_template_utils import render_jinja_template

TEMPLATES = {
    "turns": "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message.content }}<|stop|>\n{% endfor %}"
             "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "a default for the system": """{%- if messages[0]['role'] == 'system' -%}
    {%- set first = messages[0]['content'] | trim -%}
    {%- set rest = messages[1:] -%}
{%- else -%}
    {%- set first = 'Be brief.' -%}
    {%- set rest = messages -%}
{%- endif -%}
{{ bos_token }}[SYSTEM]{{ first }}[/SYSTEM]
{%- for message in rest %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('The roles must take turns: user, assistant, user and so on.') }}
    {%- endif %}
    {%- if message.role == 'user' %}
        {{- ' [ASK]' + message.content.strip() + '[/ASK]' }}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] | trim + eos_token }}
    {%- endif %}
{%- endfor %}""",
    "methods and namespaces": """{% set state = namespace(asked=0, last='') %}
{% for message in messages %}
{% if message.role == "user" %}
{% set state.asked = state.asked + 1 %}
{% set state.last = message.content.split('.')[-1].lstrip() %}
{% endif %}
{% if message.content.startswith('Please') or 'secret' in message.content %}
polite: {{ message.content.replace('Please', 'Kindly').upper() }}
{% elif loop.first and not loop.last %}
first {{ loop.index }} of {{ loop.length }}: {{ message.content.title() }}
{% else %}
{{ message.role | upper }}: {{ message.content | length }}, {{ '%s' | format(state.last) }}
{% endif %}
{% endfor %}
{{ state.asked }} {{ state.last.rstrip('?').endswith('x') }} {{ tools is none }} {{ unknown is defined }}
{%- if add_generation_prompt %}
>>{% endif %}""",
    "macros, tojson and generation": """{%- macro show(message, n) -%}
({{ n }}) {{ message | tojson }}
{%- endmacro -%}
{%- for message in messages -%}
{%- if message.role == 'assistant' %}{% generation %}{{ show(message, loop.index) }}{% endgeneration %}
{%- else %}{{ show(message, loop.index) }}{% endif -%}
{{ "\\n" if not loop.last }}
{%- if loop.index > 2 %}{% break %}{% endif %}
{%- endfor %}
{{ ['a', 'b'] | join('-') }}{{ messages[-1].content | tojson(indent=2) }}{{ messages | map(attribute='role') | list | tojson }}
{{- messages | selectattr('role', 'equalto', 'user') | list | length }}""",
    "lines and values": """{{ {'a': [true, none, 1.5]} | tojson }}
{%- for message in messages %}
{{ message.content | tojson(ensure_ascii=true) }} {{ message.content.splitlines() | join('/') }}
{{ message.content | indent(2, first=true) }}|{{ message.content | indent }}|{{ message.content | indent(3, false, true) }}|
{%- endfor %}""",
}
USER = {"role": "user", "content": " What is the capital of \"France\"? Name it.Now  "}
CHATS = [
    [USER],
    [{"role": "system", "content": " Answer in French.\n"}, USER],
    [USER, {"role": "assistant", "content": "Paris, naïve 東京 <b>&</b>"}, {"role": "user", "content": "Please tell\nme a secret"}],
    [{"role": "assistant", "content": "Hello"}, USER],
    [{"role": "user", "content": "one\u2028two\r\n\nthree\x0b \U0001f600\n"}],
]

cases = []
for name, template in TEMPLATES.items():
    for chat in CHATS:
        try:
            rendered, _ = render_jinja_template([chat], chat_template=template, add_generation_prompt=True, bos_token="<s>", eos_token="</s>")
            cases.append(dict(template=name, chat=chat, text=rendered[0]))
        except Exception as error:
            cases.append(dict(template=name, chat=chat, error=str(error)))
here = os.path.dirname(os.path.abspath(__file__))
json.dump(dict(templates=TEMPLATES, cases=cases), open(os.path.join(here, "chat.json"), "w"), indent=1, ensure_ascii=False)
for case in cases:
    print(case["template"], "|", repr(case.get("text", case.get("error"))))
