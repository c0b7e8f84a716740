"""Words by which claims are recognised, for each language of reports.

The lists err on the side of recognising too much: a sound sentence that is dropped costs style, an unsound one that
passes costs trust.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from re import Pattern


def _any(*patterns: str) -> Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


@dataclass(frozen=True)
class Lexicon:
    """Patterns of one language."""

    hypotheses: Mapping[str, Pattern[str]]
    """What says that the picture is authentic, manipulated or AI generated."""
    undecided: Pattern[str]
    """What says that there is no conclusion."""
    open_question: Pattern[str]
    """What turns the mention of a hypothesis into a question that stays open."""
    overclaim: Pattern[str]
    """Certainty that no finding gives."""
    negation: Pattern[str]
    detection: Pattern[str]
    """Verbs and nouns by which a test is said to have seen something."""
    absence: Pattern[str]
    """What says that there is nothing, without a negation."""
    trace: Pattern[str]
    """Words that limit a negated hypothesis to what a test looks for."""
    support: Pattern[str]
    """Verbs of weighing, allowed of the verdict without a finding."""
    places: Mapping[str, Pattern[str]]
    """Words of place by row or column of the picture."""
    content: Pattern[str]
    """What a picture may show; nothing in the evidence tells."""
    tool_noun: Pattern[str]
    """Captures the word before "tool", "detector" and the like."""
    tool_words: Mapping[str, Pattern[str]]
    """Names of the tools."""
    clause_break: Pattern[str]
    numerals: Mapping[str, int]
    """Number words that count as numbers."""
    stop_words: frozenset[str]
    """Words that may stand before a tool noun."""
    verdict_words: frozenset[str]
    """Stems that a sentence about the verdict may have beside those of the rules' own sentence."""
    trace_words: frozenset[str]
    """Stems that name the trace of some test: a sentence about another test must not use them."""


_WORD = re.compile(r"[^\W\d_]+")
_STEM, _HANGUL_STEM, _SHORTEST = 6, 2, 4


@lru_cache(maxsize=1024)
def stems(text: str) -> frozenset[str]:
    """Beginnings of a text's words, folded: what endings and Korean particles leave alone. Short words are left out."""
    found = set()
    for word in _WORD.findall(text.casefold()):
        length, shortest = (_STEM, _SHORTEST) if word.isascii() else (_HANGUL_STEM, _HANGUL_STEM)
        if len(word) >= shortest:
            found.add(word[:length])
    return frozenset(found)


_EN = Lexicon(
    hypotheses={
        "authentic": _any(
            r"\bauthentic", r"\bgenuine", r"\bun(?:altered|edited|touched|modified|manipulated|tampered)\b",
            r"\bpristine\b",
            r"\b(?:is|are|was|be|as|remains?|seems|appears)\s+(?:an?\s+|the\s+)?(?:real|original)\b",
            r"\breal\s+(?:image|photo|picture)", r"\bcamera photo\b",
            r"\bcamera[- ]original\b", r"\boriginal (?:photo|picture|image|file)\b", r"\bleft as it was\b",
        ),
        "manipulated": _any(
            r"(?<!un)manipulat", r"\bedit(?:ed|ing|s)?\b", r"(?<!un)tamper", r"(?<!un)altered\b", r"\balteration",
            r"\bforg(?:ed|ery|eries)\b", r"\bdoctored\b", r"\bsplic", r"\bretouch", r"(?<!un)modified\b",
            r"\bmodification",
            r"\bcomposite\b", r"\bphotoshopped\b", r"\bpasted\b", r"\bcloned\b", r"\binserted\b", r"\bremoved\b",
        ),
        "ai_generated": _any(
            r"\bAI\b", r"\bartificial", r"\bsynthe(?:tic|sis|sised|sized)\b", r"\bgenerat(?:ed|ive|or)\b",
            r"\bdeepfake",
            r"\bmachine[- ]made\b",
        ),
    },
    undecided=_any(
        r"\buncertain\b", r"\binconclusive\b", r"\bno conclusion\b", r"\bcannot (?:be )?(?:decide|conclude)",
    ),
    open_question=_any(
        r"\bwhether\b", r"\bcannot (?:be )?(?:rule|exclude|decide|conclude|say|tell)", r"\bnot enough\b",
        r"\binsufficient",
        r"\bno conclusion\b", r"\binconclusive\b", r"\bdo(?:es)? not carry\b", r"\bremains? open\b", r"\bunknown\b",
    ),
    overclaim=_any(
        r"\bfake", r"\bprove[sn]?\b", r"\bproof\b", r"\bcertain(?:ly|ty)?\b", r"\bdefinit", r"\bconclusive(?:ly)?\b",
        r"\bundoubt", r"\bguarant", r"\b100\s?%", r"\bobvious", r"\bclearly\b", r"\bbeyond\b.{0,20}\bdoubt",
        r"\bmust be\b",
        r"\bwithout (?:a |any )?doubt", r"\bverified\b", r"\bconfirm",
            r"\bexperts?\b", r"\bauthorit", r"\bchecked by\b", r"\bcertif",
    ),
    negation=_any(
        r"\bno\b", r"\bnot\b", r"n't\b", r"\bnever\b", r"\bwithout\b", r"\bneither\b", r"\bnor\b", r"\bnone\b",
        r"\black",
        r"\babsen", r"\bfail(?:s|ed)? to\b", r"\brather than\b", r"\binstead of\b", r"\bas opposed to\b",
        r"\bcannot\b",
    ),
    detection=_any(
        r"(?<!un)\bdetect", r"\bfound\b", r"\bfinds\b", r"\breveal", r"\bshow(?:s|n|ed|ing)?\b", r"\bindicat",
        r"\bidentif",
        r"\bpresen(?:t|ce)\b", r"\btraces?\b", r"\bevidence of\b", r"\bsigns? of\b", r"\bsuggest", r"\bexhibit",
        r"\bcontains?\b", r"\binconsisten", r"\bconsistent with\b", r"\bdiffers?\b", r"\bforeign\b", r"\bdeclare",
        r"\bhas been\b", r"\bthere (?:is|are)\b", r"\bdue to\b", r"\bcaused by\b", r"\bresult of\b",
        r"\bpoints? to\b",
        r"\bstrong\b", r"\bhigh(?:er|ly)?\b", r"\bsignifican",
    ),
    absence=_any(
        r"\bnothing\b", r"\bundetected\b", r"\bconsistent (?:across|throughout|over|noise|grid)", r"\buniform",
        r"\bclean\b",
        r"\bnormal\b", r"\bas expected\b", r"\bfree of\b", r"\bzero\b",
    ),
    trace=_any(r"\btraces?\b", r"\bsigns?\b", r"\bevidence\b", r"\bindications?\b", r"\bdetect"),
    support=_any(
        r"\bsupport", r"\bfavou?r", r"\bpoint", r"\bweigh", r"\bprobab", r"\bverdict", r"\bconclu", r"\brest",
    ),
    places={
        "upper": _any(r"\bupper\b", r"\btop\b"),
        "lower": _any(r"\blower\b(?!\s+(?:quality|than|level|score|noise))", r"\bbottom\b"),
        "left": _any(r"\bleft\b(?! as it was)"),
        "right": _any(r"\bright\b"),
        "centre": _any(r"\bcent(?:re|er|ral)\b"),
        "corner": _any(r"\bcorners?\b"),
    },
    content=_any(
        r"\b(?:faces?|persons?|people|man|men|woman|women|child|children|sky|background|foreground|buildings?)\b",
        r"\b(?:cars?|hands?|hair|eyes?|shadows?|lighting|animals?|dogs?|cats?|trees?|water|clothes|clothing|skin)\b",
        r"\b(?:fingers?|windows?|walls?|objects?|subject|scene)\b",
    ),
    tool_noun=_any(
        r"([\w./-]+)\s+(?:tools?|detectors?|classifiers?|networks?|algorithms?|scanners?|software|models?|filters?"
        r"|programs?)\b"
    ),
    tool_words={
        "frequency": _any(r"\bfrequency\b"),
        "noise": _any(r"\bnois(?:e|y)\b"),
        "watermark": _any(r"\bwatermark"),
        "spatial": _any(r"\bspatial"),
    },
    clause_break=re.compile(
        r"[;:,]|\s(?:and|but|while|whereas|although|however|because|so|yet|which)\s", re.IGNORECASE
    ),
    numerals={
        "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
        "eleven": 11,
        "twelve": 12, "dozen": 12, "hundred": 100, "thousand": 1000, "million": 1_000_000, "half": 0,
    },
    stop_words=_words(
        "the a an this that these those each every no any some all other forensic generative language four its their "
        "our editing one by several same of as such camera"
    ),
    verdict_words=_words(
        "findin find eviden suppor favour conclu verdic probab open remain remain whethe cannot decide "
        "strong weak modera image pictur "
        "photo uncert inconc insuff enough test result manipu edited genera synthe authen unalte unedit camera captur "
        "rather made taken with this that from they there have been does more most than explan view toward avail"
    ),
    trace_words=_words(
        "lattic sensor sensor thumbn grain copied copy creden payloa waterm signat signer signed interp resamp resize "
        "finger ghost quanti sharpn blur blurre grid compre recomp metada softwa declar noise noisie cleane quiete "
        "residu mirror croppe segmen votes colour color"
    ),
)  # fmt: skip

_KO = Lexicon(
    hypotheses={
        "authentic": _any(
            "진본", "원본", "진짜", "그대로", "무편집", "편집되지 않", "조작되지 않", "변조되지 않",
            "카메라로 (?:찍|촬영)", "실제 사진",
        ),
        "manipulated": _any(
            "편집(?!되지 않)",
            "붙여 ?넣", "복사", "조작(?!되지 않)", "변조(?!되지 않)", "합성", "위조", "수정(?:되|된|한|했)",
            "변경(?:되|된)", "리터치"
        ),
        "ai_generated": _any("AI", "인공지능", "생성(?:형|된|되|한|했)", "생성 ?모델", "딥페이크"),
    },
    undecided=_any("불확실", "판단할 수 없", "결론을 내릴 수 없", "결론 ?(?:내리기|짓기)"),
    open_question=_any(
        "여부", "배제할 수 없", "판단할 수 없", "결론을 내릴 수 없", "충분하지 않", "부족", "알 수 없", "불확실",
    ),
    overclaim=_any(
        "가짜", "증명", "입증", "확실", "분명", "명백", "틀림없", "의심의 여지", "확정", "확인되", "100 ?%",
        "반드시", "보증", "검증",
    ),
    negation=_any("않", "없", "아니", "아닌", "못", "안 ?[되된]", "보다는", "대신"),
    detection=_any(
        "검출", "발견", "탐지", "감지", "나타", "보여", "보이", "드러", "확인", "존재", "흔적", "징후", "증거",
        "시사", "의심", "포함",
        "불일치", "다른", "다르", "선언", "있습니다", "있다", "높", "강한", "강하", "때문",
    ),
    absence=_any("균일", "정상", "일관", "깨끗", "미검출", "0건"),
    trace=_any("흔적", "징후", "증거", "검출", "발견"),
    support=_any("지지", "뒷받침", "가리", "확률", "판정", "결론"),
    places={
        "upper": _any("위쪽", "상단", "윗"),
        "lower": _any("아래", "하단"),
        "left": _any("왼쪽", "좌측", "좌상", "좌하"),
        "right": _any("오른쪽", "우측", "우상", "우하"),
        "centre": _any("가운데", "중앙", "중심"),
        "corner": _any("모서리", "구석"),
    },
    content=_any(
        "얼굴", "사람", "인물", "하늘", "배경", "전경", "건물", "자동차", "손가락", "머리카락", "그림자", "조명",
        "동물", "나무", "피부", "창문", "물체", "장면",
    ),
    tool_noun=_any(r"([\w./-]+)\s*(?:도구|탐지기|검출기|분류기|네트워크|알고리즘|소프트웨어|프로그램|필터)"),
    tool_words={
        "frequency": _any("주파수", r"frequency"),
        "noise": _any("노이즈", "잡음", r"noise"),
        "watermark": _any("워터마크", r"watermark"),
        "spatial": _any("공간", r"spatial"),
    },
    clause_break=re.compile(r"[;:,]|(?:지만|으나|으며|이며|하고|되고|는데|므로)\s"),
    numerals={"두": 2, "세": 3, "네": 4, "다섯": 5, "여섯": 6, "일곱": 7, "여덟": 8, "아홉": 9, "열": 10, "절반": 0},
    stop_words=_words("이 그 저 각 모든 네 다른 포렌식 생성 언어 편집 분석 검사"),
    verdict_words=_words(
        "검사 결과 증거 지지 뒷받 결론 판정 확률 사진 그림 이미 여부 불확 충분 편집 생성 촬영 카메 견해 "
        "가능 있습 합니 않습 "
        "것입 하지 내릴"
    ),
    trace_words=_words(
        "격자 센서 축소 결이 결의 복사 서명 워터 보간 재표 지문 고스 선명 압축 재압 메타 소프 선언 노이 "
        "잔차 블록 투표"
    ),
)  # fmt: skip

LEXICONS: Mapping[str, Lexicon] = {"en": _EN, "ko": _KO}
