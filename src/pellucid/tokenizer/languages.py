"""Tokenizers of translation models that name languages by tokens: mBART, mBART-50, NLLB and M2M-100.

tokenizer = NllbTokenizer.from_pretrained("facebook/nllb-200-distilled-600M", src_lang="eng_Latn")
tokenizer.src_lang = "fra_Latn"
tokenizer("Bonjour", text_target="Hello")
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import Any, ClassVar, Unpack

from tokenizers import Regex, Tokenizer, decoders, normalizers, processors

from pellucid.errors import FileError, InputError, did_you_mean, strict
from pellucid.files import quoted, read_json
from pellucid.tokenizer.base import Token, TokenizerOptions
from pellucid.tokenizer.call import CallOptions
from pellucid.tokenizer.encoding import BatchEncoding
from pellucid.tokenizer.files import TokenizerFiles, build
from pellucid.tokenizer.pieces import Pipeline, SentencePieceTokenizer, Vocab, XLMRobertaTokenizer, fairseq_pieces
from pellucid.tokenizer.sentencepiece import (
    BPE,
    SPACE,
    SentencePieceModel,
    bpe,
    exact_normalizer,
    find_merges,
    joined,
    read_model,
    unigram,
    words,
)

_MBART = """ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV my_MM ne_NP
    nl_XX ro_RO ru_RU si_LK tr_TR vi_VN zh_CN"""
_MBART50 = f"""{_MBART} af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF pt_XX
    sv_SE sw_KE ta_IN te_IN th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI"""
_NLLB = """ace_Arab ace_Latn acm_Arab acq_Arab aeb_Arab afr_Latn ajp_Arab aka_Latn amh_Ethi apc_Arab arb_Arab ars_Arab
    ary_Arab arz_Arab asm_Beng ast_Latn awa_Deva ayr_Latn azb_Arab azj_Latn bak_Cyrl bam_Latn ban_Latn bel_Cyrl
    bem_Latn ben_Beng bho_Deva bjn_Arab bjn_Latn bod_Tibt bos_Latn bug_Latn bul_Cyrl cat_Latn ceb_Latn ces_Latn
    cjk_Latn ckb_Arab crh_Latn cym_Latn dan_Latn deu_Latn dik_Latn dyu_Latn dzo_Tibt ell_Grek eng_Latn epo_Latn
    est_Latn eus_Latn ewe_Latn fao_Latn pes_Arab fij_Latn fin_Latn fon_Latn fra_Latn fur_Latn fuv_Latn gla_Latn
    gle_Latn glg_Latn grn_Latn guj_Gujr hat_Latn hau_Latn heb_Hebr hin_Deva hne_Deva hrv_Latn hun_Latn hye_Armn
    ibo_Latn ilo_Latn ind_Latn isl_Latn ita_Latn jav_Latn jpn_Jpan kab_Latn kac_Latn kam_Latn kan_Knda kas_Arab
    kas_Deva kat_Geor knc_Arab knc_Latn kaz_Cyrl kbp_Latn kea_Latn khm_Khmr kik_Latn kin_Latn kir_Cyrl kmb_Latn
    kon_Latn kor_Hang kmr_Latn lao_Laoo lvs_Latn lij_Latn lim_Latn lin_Latn lit_Latn lmo_Latn ltg_Latn ltz_Latn
    lua_Latn lug_Latn luo_Latn lus_Latn mag_Deva mai_Deva mal_Mlym mar_Deva min_Latn mkd_Cyrl plt_Latn mlt_Latn
    mni_Beng khk_Cyrl mos_Latn mri_Latn zsm_Latn mya_Mymr nld_Latn nno_Latn nob_Latn npi_Deva nso_Latn nus_Latn
    nya_Latn oci_Latn gaz_Latn ory_Orya pag_Latn pan_Guru pap_Latn pol_Latn por_Latn prs_Arab pbt_Arab quy_Latn
    ron_Latn run_Latn rus_Cyrl sag_Latn san_Deva sat_Beng scn_Latn shn_Mymr sin_Sinh slk_Latn slv_Latn smo_Latn
    sna_Latn snd_Arab som_Latn sot_Latn spa_Latn als_Latn srd_Latn srp_Cyrl ssw_Latn sun_Latn swe_Latn swh_Latn
    szl_Latn tam_Taml tat_Cyrl tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi taq_Latn taq_Tfng tpi_Latn tsn_Latn
    tso_Latn tuk_Latn tum_Latn tur_Latn twi_Latn tzm_Tfng uig_Arab ukr_Cyrl umb_Latn urd_Arab uzn_Latn vec_Latn
    vie_Latn war_Latn wol_Latn xho_Latn ydd_Hebr yor_Latn yue_Hant zho_Hans zho_Hant zul_Latn"""
_M2M100 = """af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl gu ha he hi hr ht
    hu hy id ig ilo is it ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml mn mr ms my ne nl no ns oc or pa pl ps pt
    ro ru sd si sk sl so sq sr ss su sv sw ta th tl tn tr uk ur uz vi wo xh yi yo zh zu"""
_WMT21 = "en ha is ja cs ru zh de"


class TranslationOptions(TokenizerOptions, total=False):
    """Further keywords of tokenizers that know languages."""

    src_lang: str | None
    tgt_lang: str | None


class TranslationTokenizer(SentencePieceTokenizer):
    """Base of the tokenizers that put the token of a language around texts; not used alone.

    Attributes:
        src_lang: language of texts; setting it changes what goes around them from then on.
        tgt_lang: language of `text_target`; by default the same.
    """

    OPTIONS = TranslationOptions
    LANGUAGES: ClassVar[str] = ""
    DEFAULT_LANGUAGE: ClassVar[str] = "en_XX"
    DEFAULT_TOKENS = XLMRobertaTokenizer.DEFAULT_TOKENS
    MASK_FLAGS: ClassVar[dict[str, bool]] = {"lstrip": True}
    vocab_files_names = XLMRobertaTokenizer.vocab_files_names

    _languages: list[str | None]  # of source and target
    _around_text: tuple[list[str], list[str]] = ([], [])

    def _start(self, backend: Tokenizer, given: dict[str, Any], kept: dict[str, Any] | None = None) -> None:
        self._languages = [None, None]
        super()._start(backend, given, kept)
        for name in ("src_lang", "tgt_lang"):
            if given.get(name) is not None:
                setattr(self, name, given[name])
        if self._languages[0] is None:
            self._languages[0] = self.DEFAULT_LANGUAGE
            if self._tokenizer.token_to_id(self.language_token(self.DEFAULT_LANGUAGE)) is not None:
                self.set_src_lang_special_tokens(self.DEFAULT_LANGUAGE)

    # ------------------------------------------------------------------ languages

    @classmethod
    def _codes(cls, options: Mapping[str, Any]) -> list[str]:
        """The languages that the model knows."""
        return cls.LANGUAGES.split()

    @property
    def src_lang(self) -> str | None:
        """The language of texts."""
        return self._languages[0]

    @src_lang.setter
    def src_lang(self, language: str) -> None:
        self.set_src_lang_special_tokens(language)
        self._languages[0] = language

    @property
    def tgt_lang(self) -> str | None:
        """The language of `text_target`; `None` for that of `src_lang`."""
        return self._languages[1]

    @tgt_lang.setter
    def tgt_lang(self, language: str | None) -> None:
        if language is not None:
            self._language_id(language)
        self._languages[1] = language

    @property
    def lang_code_to_id(self) -> dict[str, int | None]:
        """Number of each language's token."""
        return {code: self._id(self.language_token(code)) for code in self._codes(self.init_kwargs)}

    @property
    def prefix_tokens(self) -> list[int | None]:
        """Numbers of the tokens in front of texts."""
        return [self._id(token) for token in self._around_text[0]]

    @property
    def suffix_tokens(self) -> list[int | None]:
        """Numbers of the tokens after texts."""
        return [self._id(token) for token in self._around_text[1]]

    def language_token(self, language: str) -> str:
        """The token of a language."""
        return language

    def _language_id(self, language: Any) -> int:
        token = self.language_token(language) if isinstance(language, str) else None
        index = None if token is None else self._tokenizer.token_to_id(token)
        if index is None:
            known = self._codes(self.init_kwargs)
            near = did_you_mean(language, known) if isinstance(language, str) else ""
            raise InputError(f"language: got {quoted(language)}, wanted a code such as {known[0]!r}{near}")
        return index

    def _surround_with(self, language: str) -> tuple[list[str], list[str]]:
        """The tokens before and after a text in a language."""
        return [], [str(self.eos_token), self.language_token(language)]

    @strict
    def set_src_lang_special_tokens(self, src_lang: str) -> None:
        """Let what goes around texts be that of a source text in a language."""
        self._language_id(src_lang)
        before, after = self._around_text = self._surround_with(src_lang)
        with self._lock:
            self._tokenizer.post_processor = _template(before, after, self._tokenizer)

    @strict
    def set_tgt_lang_special_tokens(self, lang: str) -> None:
        """The same for a target text; these models treat both alike."""
        self.set_src_lang_special_tokens(lang)

    @contextmanager
    def _as_target(self, language: str) -> Iterator[None]:
        """Within this, what goes around texts is that of a target text; other threads wait."""
        with self._lock:
            around, present = self._around_text, self._tokenizer.post_processor
            self.set_tgt_lang_special_tokens(language)
            try:
                yield
            finally:
                self._around_text, self._tokenizer.post_processor = around, present

    def _encode_target(self, text: Any, pair: Any, options: CallOptions, verbose: bool) -> BatchEncoding:
        if self.tgt_lang is None:
            self.tgt_lang = self.src_lang
        language = str(self.tgt_lang)
        with self._as_target(language):
            encoded = super()._encode_target(text, pair, options, verbose)
        later = encoded._encodings
        if callable(later):
            encoded._encodings = self._later_as_target(language, later)
        return encoded

    def _later_as_target(self, language: str, later: Callable[[], Any]) -> Callable[[], Any]:
        """Look-ups encode the texts again: with the same tokens around them."""

        def encodings() -> Any:
            with self._as_target(language):
                return later()

        return encodings

    def _build_translation_inputs(
        self, raw_inputs: Any, *, src_lang: str | None, tgt_lang: str | None, **options: Any
    ) -> BatchEncoding:
        """Inputs of a model for translating texts, with the token that its answer begins with."""
        if src_lang is None or tgt_lang is None:
            raise InputError(f"src_lang and tgt_lang: got {src_lang!r} and {tgt_lang!r}, wanted both for translating")
        self.src_lang = src_lang
        inputs = self(raw_inputs, add_special_tokens=True, **options)
        inputs["forced_bos_token_id"] = self._language_id(tgt_lang)
        return inputs

    @classmethod
    def _extra_tokens(cls, own: list[Token], options: Mapping[str, Any]) -> list[Token]:
        codes: list[Token] = [*cls._codes(options)]
        return [*codes, *(token for token in own if token not in codes)]

    def _config_to_save(self) -> dict[str, Any]:
        return super()._config_to_save() | {"src_lang": self.src_lang, "tgt_lang": self.tgt_lang}


def _template(before: list[str], after: list[str], backend: Tokenizer) -> Any:
    numbers: Any = [(token, backend.token_to_id(token)) for token in dict.fromkeys([*before, *after])]
    single: Any = [*before, "$A", *after]
    pair: Any = [*before, "$A", "$B", *after]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=numbers)


# ---------------------------------------------------------------------- mBART


class MBartTokenizer(TranslationTokenizer):
    """mBART's tokenizer: pieces, as `A </s> en_XX`."""

    LANGUAGES: ClassVar[str] = _MBART

    @classmethod
    def _vocab_of(cls, model: SentencePieceModel, options: Mapping[str, Any]) -> Vocab:
        """The languages stand after the pieces, in the order of fairseq, then the mask."""
        codes = ((code, 0.0) for code in cls._codes(options))
        return [*fairseq_pieces(model, options), *codes, (str(options["mask_token"]), 0.0)]

    @classmethod
    def _pipeline(cls, charsmap: Any, options: Mapping[str, Any]) -> Pipeline:
        return Pipeline(None, words(), joined())


class MBart50Tokenizer(MBartTokenizer):
    """mBART-50's tokenizer: pieces of normalized text, as `en_XX A </s>`."""

    LANGUAGES: ClassVar[str] = _MBART50
    DEFAULT_TOKENS: ClassVar[dict[str, str]] = {
        name: token for name, token in XLMRobertaTokenizer.DEFAULT_TOKENS.items() if name != "bos_token"
    }

    @classmethod
    def _vocab_of(cls, model: SentencePieceModel, options: Mapping[str, Any]) -> Vocab:
        return super()._vocab_of(model, {**options, "bos_token": options["cls_token"]})

    @classmethod
    def _pipeline(cls, charsmap: Any, options: Mapping[str, Any]) -> Pipeline:
        return Pipeline(_normalized(charsmap), words(whitespace=False), joined())

    @classmethod
    def _extra_tokens(cls, own: list[Token], options: Mapping[str, Any]) -> list[Token]:
        return [*own, *(code for code in cls._codes(options) if code not in own)]

    def _surround_with(self, language: str) -> tuple[list[str], list[str]]:
        return [language], [str(self.eos_token)]


def _normalized(charsmap: Any) -> Any:
    """Characters replaced as the file says, then runs of spaces made one."""
    single = normalizers.Replace(Regex(" {2,}"), " ")
    return normalizers.Sequence([single] if charsmap is None else [charsmap, single])


# ---------------------------------------------------------------------- NLLB


class NllbOptions(TranslationOptions, total=False):
    """Further keywords of NLLB's tokenizer."""

    legacy_behaviour: bool


class NllbTokenizer(TranslationTokenizer):
    """NLLB's tokenizer: merged pieces, as `eng_Latn A </s>`, or with `legacy_behaviour` as `A </s> eng_Latn`."""

    OPTIONS = NllbOptions
    MERGES: ClassVar[bool] = True
    LANGUAGES: ClassVar[str] = _NLLB
    DEFAULT_LANGUAGE: ClassVar[str] = "eng_Latn"
    MASK_FLAGS: ClassVar[dict[str, bool]] = {"lstrip": True, "normalized": True}

    @property
    def legacy_behaviour(self) -> bool:
        """Whether the language stands after texts."""
        return bool(self.init_kwargs.get("legacy_behaviour", False))

    @classmethod
    def _vocab_of(cls, model: SentencePieceModel, options: Mapping[str, Any]) -> Vocab:
        tokens = [piece for piece, _ in fairseq_pieces(model, options)[:4]]
        return {piece: index for index, piece in enumerate(dict.fromkeys([*tokens, *model.pieces]))}

    @classmethod
    def _from_model(cls, model: SentencePieceModel, given: dict[str, Any]) -> Tokenizer:
        """The languages are added first: their numbers follow those of the pieces, and the mask's follows them."""
        backend = super()._from_model(model, given)
        backend.add_special_tokens(cls._codes(given))
        return backend

    @classmethod
    def _pipeline(cls, charsmap: Any, options: Mapping[str, Any]) -> Pipeline:
        return Pipeline(None if charsmap is None else _normalized(charsmap), words(whitespace=False), joined())

    def _surround_with(self, language: str) -> tuple[list[str], list[str]]:
        if self.legacy_behaviour:
            return super()._surround_with(language)
        return [language], [str(self.eos_token)]


# ---------------------------------------------------------------------- M2M-100


class M2M100Options(TranslationOptions, total=False):
    """Further keywords of M2M-100's tokenizer."""

    language_codes: str
    num_madeup_words: int


class M2M100Tokenizer(TranslationTokenizer):
    """M2M-100's tokenizer: pieces numbered by a `vocab.json`, as `__en__ A </s>`.

    Args:
        vocab_file: path of a `vocab.json`, or what is in it.
        spm_file: path of the `.model` file.
        tokenizer_object: a `tokenizers.Tokenizer` to take in place of them; it is copied.
        tokenizer_file: path of a `tokenizer.json` to take in place of them.
        **options: see `M2M100Options`.
    """

    OPTIONS = M2M100Options
    PIPELINE_OPTIONS: ClassVar[tuple[str, ...]] = ()
    DEFAULT_LANGUAGE: ClassVar[str] = "en"
    DEFAULT_TOKENS: ClassVar[dict[str, str]] = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
    }
    MASK_FLAGS: ClassVar[dict[str, bool]] = {}
    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": "vocab.json", "spm_file": "sentencepiece.bpe.model"}

    def __init__(
        self,
        vocab_file: str | PathLike[str] | Mapping[str, int] | None = None,
        spm_file: str | PathLike[str] | None = None,
        *,
        tokenizer_object: Tokenizer | None = None,
        tokenizer_file: str | PathLike[str] | None = None,
        **options: Unpack[M2M100Options],
    ) -> None:
        self._check_names(options)
        given = {**self._file_defaults(), **options}
        if (vocab_file is None) != (spm_file is None):
            raise InputError("M2M100Tokenizer: wanted both vocab_file (vocab.json) and spm_file (a .model file)")
        if vocab_file is None or spm_file is None:
            super().__init__(tokenizer_object=tokenizer_object, tokenizer_file=tokenizer_file, **given)
            return
        model = read_model(spm_file, follow=True)
        numbers = dict(vocab_file) if isinstance(vocab_file, Mapping) else read_json(vocab_file, follow=True)
        self._start(self._from_numbers(model, _checked(numbers, "vocab_file"), given), given)

    @classmethod
    def _file_defaults(cls) -> dict[str, Any]:
        return {"language_codes": "m2m100", "num_madeup_words": 8}

    @classmethod
    def _codes(cls, options: Mapping[str, Any]) -> list[str]:
        sets = {"m2m100": _M2M100, "wmt21": _WMT21}
        chosen = options.get("language_codes", "m2m100")
        if chosen not in sets:
            raise InputError(f"language_codes: got {quoted(chosen)}, wanted one of {sorted(sets)}")
        return sets[chosen].split()

    @classmethod
    def _build(cls, files: TokenizerFiles, given: dict[str, Any]) -> Tokenizer:
        if "tokenizer.json" in files.paths or "vocab.json" not in files.paths:
            return build(files, cls.__name__, {**cls.DEFAULT_TOKENS, **given})
        model, path = read_model(files.paths["sentencepiece.bpe.model"]), files.paths["vocab.json"]
        return cls._from_numbers(model, _checked(read_json(path), str(path)), given)

    @classmethod
    def _from_numbers(cls, model: SentencePieceModel, numbers: dict[str, int], given: dict[str, Any]) -> Tokenizer:
        """A backend that cuts text as the file says and numbers the pieces as `numbers` says.

        Pieces without a number are left out; tokens that are no piece are found in text only as added tokens.
        """
        options = cls._with_texts(given)
        unknown = str(options["unk_token"])
        if unknown not in numbers:
            raise InputError(f"vocab.json: it lacks the unknown token {quoted(unknown)}; name another as unk_token")
        if model.model_type == BPE:
            found = find_merges({piece: index for index, piece in enumerate(model.pieces)}, model.scores)
            merges = [(left, right) for left, right in found if {left, right, left + right} <= numbers.keys()]
            backend = bpe(numbers, merges, unk_token=unknown, byte_fallback=model.byte_fallback, source=model.source)
        else:
            scores, lowest = dict(model.scored), min(model.scores)
            ordered = sorted(numbers, key=numbers.__getitem__)
            pieces = [(piece, scores.get(piece, lowest)) for piece in ordered]
            backend = unigram(pieces, numbers[unknown], byte_fallback=model.byte_fallback, source=model.source)
        backend.normalizer, backend.decoder = exact_normalizer(model), cls._decoder(options)
        backend.add_special_tokens([f"__{code}__" for code in cls._codes(options)])
        return backend

    @classmethod
    def _decoder(cls, options: Mapping[str, Any]) -> Any:
        """Texts between special tokens stand alone: the space in front of each goes."""
        named = [str(options[name]) for name in cls.DEFAULT_TOKENS if options.get(name) is not None]
        tokens = "|".join(re.escape(token) for token in [*named, *(f"__{code}__" for code in cls._codes(options))])
        steps = [
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Replace(Regex(f"(?<={tokens}){SPACE}"), ""),
            decoders.Replace(SPACE, " "),
            decoders.Replace(Regex(r"\A\s+|\s+\z"), ""),
        ]
        return decoders.Sequence(steps)

    @classmethod
    def _extra_tokens(cls, own: list[Token], options: Mapping[str, Any]) -> list[Token]:
        return [*own, *(f"__{code}__" for code in cls._codes(options))]

    def _saved_class(self) -> str:
        return type(self).__name__

    def language_token(self, language: str) -> str:
        """The token of a language: `__en__` for `en`."""
        return f"__{language}__"

    def _surround_with(self, language: str) -> tuple[list[str], list[str]]:
        return [self.language_token(language)], [str(self.eos_token)]

    @strict
    def get_lang_token(self, lang: str) -> str:
        """The token of a language."""
        self._language_id(lang)
        return self.language_token(lang)

    @strict
    def get_lang_id(self, lang: str) -> int:
        """The number of a language's token: what a translation into it begins with."""
        return self._language_id(lang)


MBartTokenizerFast = MBartTokenizer
MBart50TokenizerFast = MBart50Tokenizer
NllbTokenizerFast = NllbTokenizer


def _checked(numbers: Any, source: str) -> dict[str, int]:
    """A `vocab.json`: tokens by number, from 0 without gaps."""
    if not isinstance(numbers, dict) or not numbers:
        raise FileError(f"{source}: got {quoted(numbers)}, wanted an object of numbers by token")
    whole = all(isinstance(index, int) and not isinstance(index, bool) for index in numbers.values())
    if not whole or sorted(numbers.values()) != list(range(len(numbers))):
        raise FileError(f"{source}: wanted the numbers 0 to {len(numbers) - 1:,}, each for one token")
    return numbers
