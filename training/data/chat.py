"""Conversations through a tokenizer's chat template: which tokens are an answer, which are learnt, and what ends a turn."""

from typing import Any

from jinja2 import TemplateError

from training.data.ignored import IGNORE


def messages_of(content: str | list[dict], role: str) -> list[dict]:
    """A text as one message of this role; a list of messages as it is."""
    return [{"role": role, "content": content}] if isinstance(content, str) else list(content)


def chat_ids(tokenizer, messages: list[dict], **options: Any) -> list[int]:
    """The messages as token ids. ValueError without a chat template, or where the template refuses them."""
    if not tokenizer.chat_template:
        raise ValueError("the rows are lists of messages, and this tokenizer has no chat template: give texts, or another model")
    try:
        return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options)["input_ids"]
    except TemplateError as error:  # such as "System role not supported"
        raise ValueError(f"the tokenizer's chat template refuses {str(messages)[:80]}: {error}") from error


def answer_of_chat(tokenizer, prompt: list[dict], completion: list[dict], before: list[int]) -> tuple[list[int], list[int]]:
    """(ids, labels) of what follows the prompt, whose ids are `before`: the assistant's tokens are learnt, and no other's.

    ValueError for a completion that does not start with the assistant or has an empty answer, and for a template that writes a
    prompt differently once an answer follows.
    """
    _refuse_messages(completion)
    ids, labels = list(before), []
    for i, message in enumerate(completion):
        start = chat_ids(tokenizer, [*prompt, *completion[:i]], add_generation_prompt=True)
        whole = chat_ids(tokenizer, [*prompt, *completion[: i + 1]])
        if message["role"] != "assistant":
            start = whole
        if start[: len(ids)] != ids or whole[: len(start)] != start:
            raise ValueError(
                "the tokenizer's chat template writes a prompt differently once an answer follows, so the answer's tokens cannot "
                f"be separated from the prompt's (prompt {str(prompt)[:60]!r}): give texts that need no template, or change the "
                "template"
            )
        labels += [IGNORE] * (len(start) - len(ids)) + whole[len(start) :]
        ids = whole
    return ids[len(before) :], labels


def _refuse_messages(completion: list[dict]) -> None:
    roles = [message.get("role") for message in completion]
    if not roles or roles[0] != "assistant":
        raise ValueError(f"a completion starts with a message of the assistant, found roles {roles}: the prompt holds the others")
    unknown = sorted({str(role) for role in roles} - {"assistant", "user", "system", "tool"})
    if unknown:
        raise ValueError(f"roles {unknown} are none of assistant, user, system, tool")
    if any(message["role"] == "assistant" and not str(message.get("content") or "").strip() for message in completion):
        raise ValueError("a message of the assistant has no text: there is nothing to learn from it")


def refuse_endless_template(tokenizer) -> None:
    """ValueError for a template that writes nothing at the end of a turn."""
    if end_of_turn(tokenizer) is None:
        raise ValueError(
            "the tokenizer's chat template writes no special token after an answer, so the model would not learn to stop: use a "
            "template whose turns end in one"
        )


def end_of_turn(tokenizer) -> int | None:
    """The special token that the chat template writes after an answer; None where it writes none, or there is no template."""
    if not tokenizer.chat_template:
        return None
    question = [{"role": "user", "content": "a"}]
    before = chat_ids(tokenizer, question, add_generation_prompt=True)
    whole = chat_ids(tokenizer, [*question, {"role": "assistant", "content": "b"}])
    special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}
    return next((token for token in whole[len(before) :] if token in special), None)
