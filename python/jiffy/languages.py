"""Languages by the names that people and models give them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .errors import ParameterError, Unsupported, shown

if TYPE_CHECKING:
    from .tokenizer import Tokenizer


class Language(NamedTuple):
    """code: ISO 639-1. flores: as in NLLB's tokens. region: as in mBART's."""

    code: str
    name: str
    flores: str
    region: str


LANGUAGES = [
    Language(*line.split())
    for line in """
ar Arabic arb_Arab ar_AR
bg Bulgarian bul_Cyrl bg_BG
bn Bengali ben_Beng bn_IN
ca Catalan cat_Latn ca_ES
cs Czech ces_Latn cs_CZ
da Danish dan_Latn da_DK
de German deu_Latn de_DE
el Greek ell_Grek el_EL
en English eng_Latn en_XX
es Spanish spa_Latn es_XX
et Estonian est_Latn et_EE
fa Persian pes_Arab fa_IR
fi Finnish fin_Latn fi_FI
fr French fra_Latn fr_XX
gl Galician glg_Latn gl_ES
gu Gujarati guj_Gujr gu_IN
he Hebrew heb_Hebr he_IL
hi Hindi hin_Deva hi_IN
hr Croatian hrv_Latn hr_HR
hu Hungarian hun_Latn hu_HU
id Indonesian ind_Latn id_ID
it Italian ita_Latn it_IT
ja Japanese jpn_Jpan ja_XX
ka Georgian kat_Geor ka_GE
kk Kazakh kaz_Cyrl kk_KZ
ko Korean kor_Hang ko_KR
lt Lithuanian lit_Latn lt_LT
lv Latvian lvs_Latn lv_LV
mr Marathi mar_Deva mr_IN
ms Malay zsm_Latn ms_MY
nl Dutch nld_Latn nl_XX
no Norwegian nob_Latn nb_NO
pl Polish pol_Latn pl_PL
pt Portuguese por_Latn pt_XX
ro Romanian ron_Latn ro_RO
ru Russian rus_Cyrl ru_RU
sk Slovak slk_Latn sk_SK
sl Slovenian slv_Latn sl_SI
sr Serbian srp_Cyrl sr_RS
sv Swedish swe_Latn sv_SE
sw Swahili swh_Latn sw_KE
ta Tamil tam_Taml ta_IN
te Telugu tel_Telu te_IN
th Thai tha_Thai th_TH
tr Turkish tur_Latn tr_TR
uk Ukrainian ukr_Cyrl uk_UA
ur Urdu urd_Arab ur_PK
vi Vietnamese vie_Latn vi_VN
zh Chinese zho_Hans zh_CN
""".strip().splitlines()
]


def language(name: str, where: str) -> Language | None:
    """A language by its code or its English name, whatever the case; None for one that isn't in the list, which a model
    may know all the same. Raises ParameterError for what is no name."""
    if not isinstance(name, str) or not 0 < len(name) <= 64:
        raise ParameterError(where, expected='a language, such as "en" or "English"', found=shown(name))
    wanted = name.lower()
    found = (one for one in LANGUAGES if wanted in (one.code, one.name.lower(), one.flores.lower(), one.region.lower()))
    return next(found, None)


def language_token(tokenizer: Tokenizer, name: str, where: str) -> int:
    """The id of a model's token for a language. Raises ParameterError, Unsupported for one that it doesn't have."""
    known = language(name, where)
    spelled = [name, f"__{name}__"]
    if known:
        spelled += [known.flores, known.region, f"__{known.code}__"]
    for one in spelled:
        token_id = tokenizer.token_to_id(one)
        if token_id is not None:
            return token_id
    raise Unsupported(where, expected="a language that the model has a token for", found=shown(name))
