"""The small world's tokenizers: word level, ordinary `PreTrainedTokenizerFast`, saved and loaded like any other.

The encoder's one builds `[CLS] a [SEP]` and `[CLS] a [SEP] b [SEP]` with `token_type_ids` 0 and 1;
the decoder's one adds nothing and knows an end of text. Both share the word order of the vocabulary.
Real text never goes through them: an unknown word raises instead of turning into [UNK] quietly.
"""

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from training.data.small_world import vocabulary

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[EOS]")
PAD, UNK, CLS, SEP, MASK, EOS = range(len(SPECIAL))
MAX_LENGTH = 96


def encoder_tokenizer() -> PreTrainedTokenizerFast:
    core = _word_level()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def decoder_tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=_word_level(),
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "attention_mask"],
        pad_token="[PAD]",
        unk_token="[UNK]",
        bos_token="[EOS]",
        eos_token="[EOS]",
    )


def _word_level() -> Tokenizer:
    words = {word: i for i, word in enumerate([*SPECIAL, *vocabulary()])}
    core = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return core
