"""Fixed words of reports in English and Korean. What the coordinator wrote stays in the language it came in."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.config import LANGUAGES

_LABELS: dict[str, tuple[str, str]] = {
    "verdict.authentic": ("Authentic", "원본"),
    "verdict.manipulated": ("Manipulated", "조작됨"),
    "verdict.ai_generated": ("AI-generated", "AI 생성"),
    "verdict.uncertain": ("Uncertain", "판단 보류"),
    "verdict.failed": ("Not analysed", "분석 실패"),
    "meaning.authentic": (
        "A camera photo, unaltered as far as tests that could have seen otherwise can tell.",
        "다르게 볼 수 있었을 검사들이 알 수 있는 한, 변경되지 않은 카메라 사진입니다.",
    ),
    "meaning.manipulated": ("A photo that was edited after capture.", "촬영 후 편집된 사진입니다."),
    "meaning.ai_generated": ("A picture made by a generative model.", "생성 모델이 만든 그림입니다."),
    "meaning.uncertain": (
        "The evidence does not carry any answer. This is an ordinary result and accuses nobody.",
        "증거가 어떤 결론도 뒷받침하지 못합니다. 흔한 결과이며 누구도 의심하지 않습니다.",
    ),
    "probability.authentic": (
        "Given what the tests saw, and taking {prior} of pictures to be unaltered photos beforehand, the chance that "
        "this is one is {p}.",
        "사전에 사진의 {prior}를 변경되지 않은 원본으로 볼 때, 검사 결과를 반영한 원본일 확률은 {p}입니다.",
    ),
    "probability.manipulated": (
        "Given what the tests saw, and taking {prior} of pictures to be edited beforehand, the chance that this one "
        "was edited is {p}.",
        "사전에 사진의 {prior}를 편집된 것으로 볼 때, 검사 결과를 반영한 편집되었을 확률은 {p}입니다.",
    ),
    "probability.ai_generated": (
        "Given what the tests saw, and taking {prior} of pictures to be AI-made beforehand, the chance that this one "
        "is AI-made is {p}.",
        "사전에 그림의 {prior}를 AI가 만든 것으로 볼 때, 검사 결과를 반영한 AI 생성일 확률은 {p}입니다.",
    ),
    "probability.uncertain": (
        "The likeliest of the three answers is “{likeliest}” with {p}: too little, or resting on too few tests, for a "
        "verdict.",
        "세 가지 답 중 가장 가능성이 높은 것은 “{likeliest}”({p})이지만, 판정을 내리기에는 부족합니다.",
    ),
    "probability.unmoved": (
        "The tests moved nothing: the probabilities are those that were assumed before them, whatever the picture.",
        "검사 결과가 아무것도 바꾸지 않았습니다. 확률은 그림과 무관하게 사전에 가정한 값 그대로입니다.",
    ),
    "not_proof": ("An estimate from evidence, not proof.", "증거에 따른 추정이며 증명이 아닙니다."),
    "tool.frequency": ("Frequency", "주파수"),
    "tool.noise": ("Noise", "노이즈"),
    "tool.watermark": ("Watermark", "워터마크"),
    "tool.spatial": ("Spatial", "공간"),
    "about.frequency": (
        "compression history, block grid, resampling",
        "압축 이력, 블록 격자, 리샘플링",
    ),
    "about.noise": ("sensor noise and its consistency", "센서 노이즈와 그 일관성"),
    "about.watermark": ("credentials, metadata, invisible marks", "콘텐츠 자격 증명, 메타데이터, 보이지 않는 표식"),
    "about.spatial": ("copied regions, local inconsistency", "복사된 영역, 국부적 불일치"),
    "tool_verdict.authentic": ("speaks for an unaltered photo", "원본임을 뒷받침"),
    "tool_verdict.manipulated": ("speaks for editing", "편집을 시사"),
    "tool_verdict.ai_generated": ("speaks for an AI-made picture", "AI 생성을 시사"),
    "tool_verdict.uncertain": ("no verdict of its own", "단독으로는 판정 없음"),
    "tool_verdict.not_applicable": ("could not test this picture", "이 그림은 검사할 수 없음"),
    "tool_verdict.failed": ("failed", "오류"),
    "result.found": ("found", "발견"),
    "result.not_found": ("not found", "발견 안 됨"),
    "result.not_applicable": ("not testable", "검사 불가"),
    "result.failed": ("failed", "오류"),
    "weight.uncalibrated": ("not calibrated; does not count", "보정되지 않아 반영 안 됨"),
    "weight.nothing": ("says nothing either way", "어느 쪽도 뒷받침하지 않음"),
    "weight.below_threshold": (
        "a tendency below the test's own threshold",
        "검사 자체의 기준에 못 미치는 경향",
    ),
    "weight.manipulated": ("{n} × likelier if edited", "편집된 경우 {n}배 더 잘 나타남"),
    "weight.ai_generated": ("{n} × likelier if AI-made", "AI 생성인 경우 {n}배 더 잘 나타남"),
    "weight.not_manipulated": ("{n} × likelier if not edited", "편집되지 않은 경우 {n}배 더 잘 나타남"),
    "weight.not_ai_generated": ("{n} × likelier if not AI-made", "AI 생성이 아닌 경우 {n}배 더 잘 나타남"),
    "answer": ("Answer", "결과"),
    "summary": ("Summary", "요약"),
    "tools": ("What each tool saw", "도구별 결과"),
    "open": ("What stays open", "남은 의문"),
    "file": ("File", "파일"),
    "metadata": ("Metadata in the file", "파일 안의 메타데이터"),
    "metadata.note": (
        "Copied from the file. Anyone can write it, so it proves nothing by itself.",
        "파일에서 그대로 옮긴 값입니다. 누구나 쓸 수 있으므로 그 자체로는 증거가 되지 않습니다.",
    ),
    "metadata.none": ("No camera, software or date fields.", "카메라, 소프트웨어, 날짜 항목 없음"),
    "timings": ("Time spent", "소요 시간"),
    "versions": ("Versions", "버전"),
    "warnings": ("Warnings", "경고"),
    "picture": ("The picture and what the tools marked", "그림과 도구가 표시한 곳"),
    "picture.none": (
        "The picture is not shown: it could not be read again after the analysis.",
        "분석 후 그림을 다시 읽을 수 없어 표시하지 않습니다.",
    ),
    "picture.unrotated": (
        "Shown as stored, without the rotation of its EXIF orientation ({orientation}), so that the maps fit.",
        "지도와 맞도록 EXIF 회전({orientation})을 적용하지 않고 저장된 그대로 표시합니다.",
    ),
    "picture.alt": (
        "The analysed picture, {name}, {width} by {height} pixels",
        "분석한 그림 {name}, {width}×{height} 픽셀",
    ),
    "map.alt": ("Heat map of {name} over the picture: {meaning}", "{name}의 히트맵: {meaning}"),
    "map.fused": ("All tools together", "모든 도구 종합"),
    "map.significant": ("Passed a significance test.", "유의성 검정을 통과했습니다."),
    "map.not_significant": ("To look at; proves nothing.", "참고용이며 아무것도 증명하지 않습니다."),
    "maps.colours": (
        "Yellow to red: bright places passed a significance test. Blue: to look at; bright places did not pass one and "
        "prove nothing.",
        "노란색에서 빨간색: 유의성 검정을 통과한 곳. 파란색: 참고용이며 아무것도 증명하지 않습니다.",
    ),
    "maps": ("Heat maps", "히트맵"),
    "opacity": ("Opacity", "불투명도"),
    "layers": ("Layers", "레이어"),
    "regions": ("Marked regions", "표시된 영역"),
    "regions.where": ("{width} × {height} px at x {x}, y {y}", "x {x}, y {y}에서 {width} × {height} px"),
    "evidence": ("Evidence, test by test", "검사별 증거"),
    "evidence.note": (
        "A test that found nothing is weak evidence: a careful edit leaves no trace for most tests.",
        "아무것도 발견하지 못한 검사는 약한 증거입니다. 세심한 편집은 대부분의 검사에 흔적을 남기지 않습니다.",
    ),
    "test": ("Test", "검사"),
    "result": ("Result", "결과"),
    "means": ("What it means", "의미"),
    "weight": ("Weight", "가중치"),
    "numbers": ("Numbers", "수치"),
    "score": ("score", "점수"),
    "probabilities": ("Probabilities", "확률"),
    "probability": ("Probability", "확률"),
    "prior": ("before", "사전"),
    "posterior": ("after the evidence", "증거 반영 후"),
    "rule": ("Decided by", "판정 규칙"),
    "contributions": ("What moved the result", "결과를 움직인 증거"),
    "author.model": (
        "written by the language model, checked against the findings",
        "언어 모델 작성, 검사 결과와 대조 확인",
    ),
    "author.count": (
        "Sentences written by the language model ({name}): {model}; dropped because the findings did not bear them "
        "out: {dropped}. Rules wrote the rest.",
        "설명: 언어 모델({name}) 작성 {model}문장, 결과와 맞지 않아 제외 {dropped}문장, 나머지는 규칙이 작성.",
    ),
    "author.none": ("Written by rules; no language model was asked.", "설명: 언어 모델 없이 규칙에 따라 작성."),
    "author.failed": (
        "Written by rules; the language model gave no usable answer: {error}",
        "설명: 규칙에 따라 작성. 언어 모델의 쓸 수 있는 답이 없었습니다: {error}",
    ),
    "dropped": ("Sentences of the language model that were dropped", "제외된 언어 모델 문장"),
    "format": ("Format", "형식"),
    "size": ("Size", "크기"),
    "dimensions": ("Pixels", "픽셀"),
    "quality": ("JPEG quality", "JPEG 품질"),
    "frames": ("Frames", "프레임"),
    "orientation": ("EXIF orientation", "EXIF 회전"),
    "sha256": ("SHA-256", "SHA-256"),
    "request_id": ("Request", "요청"),
    "created": ("Made", "작성 시각"),
    "calibration": ("Calibration", "보정"),
    "coordinator": ("Coordinator", "코디네이터"),
    "model": ("Language model", "언어 모델"),
    "prompt": ("Prompt", "프롬프트"),
    "index.title": ("Image forensics: {n} pictures", "이미지 포렌식: {n}장"),
    "index.all": ("All", "전체"),
    "index.filter": ("Show", "표시"),
    "index.name": ("File", "파일"),
    "index.found": ("Found", "발견"),
    "index.shown": ("{shown} of {total} shown", "{total}장 중 {shown}장 표시"),
    "skip_link": ("Skip to the findings", "결과로 건너뛰기"),
    "report.title": ("Image forensics report", "이미지 포렌식 보고서"),
    "beside": ("Original beside it", "원본 나란히 보기"),
    "limits": ("Limits:", "한계:"),
    "provenance": ("Provenance and metadata", "출처와 메타데이터"),
    "maps.others": ("{n} maps to look at, which prove nothing", "참고용 지도 {n}개 (아무것도 증명하지 않음)"),
    "index.traces": ("In how many pictures a trace was found", "흔적이 발견된 그림 수"),
    "index.search": ("Search", "검색"),
    "index.picture": ("Picture", "그림"),
    "state.queued": ("waiting", "대기 중"),
    "state.running": ("being analysed", "분석 중"),
    "state.reported": ("done", "완료"),
    "state.failed": ("failed", "오류"),
    "state.cancelled": ("cancelled", "취소됨"),
    "batch_state.1": ("Open", "열림"),
    "batch_state.2": ("Running", "진행 중"),
    "batch_state.3": ("Done", "완료"),
    "batch_state.4": ("Cancelled", "취소됨"),
    "ui.skip": ("Skip to the content", "본문으로 건너뛰기"),
    "ui.navigation": ("Pages", "페이지"),
    "ui.pictures": ("Pictures", "그림"),
    "ui.batches": ("Batches", "배치"),
    "ui.batch": ("Batch", "배치"),
    "second_look": ("Second look: the tools disagree", "재검토: 도구들의 의견이 다름"),
    "second_look.about": (
        "A language model spoke for each side and weighed both; sentences that the findings do not bear out were left "
        "out.",
        "언어 모델이 양쪽을 대변하고 저울질했습니다. 검사 결과로 뒷받침되지 않는 문장은 제외했습니다.",
    ),
    "second_look.round_1": ("reading", "해석"),
    "second_look.round_2": ("answer", "답변"),
    "picture_reading": ("What a vision-language model sees", "시각 언어 모델이 본 것"),
    "picture_reading.about": (
        "The model's own words about a copy of {width} × {height} px. No test measures what a picture shows, so "
        "nothing here was checked.",
        "{width} × {height} px 사본에 대한 모델의 말입니다. 그림의 내용을 재는 검사는 없어 확인되지 않았습니다.",
    ),
    "picture_reading.semantic": ("Content", "내용"),
    "picture_reading.physical": ("Physics", "물리"),
    "picture_reading.text": ("Writing in the picture", "그림 속 글자"),
    "opinion": (
        "Opinion: {verdict}, {confidence} sure by its own account.",
        "의견: {verdict}, 스스로 밝힌 확신 {confidence}.",
    ),
    "opinion.no_weight": ("It counts for nothing in the verdict.", "판정에는 반영되지 않습니다."),
    "opinion.weight": ("It counts in the verdict with the weight {weight}.", "판정에 {weight}의 가중치로 반영됩니다."),
    "opinion.failed": ("It could not be finished: {message}", "끝내지 못했습니다: {message}"),
    "from_cache": (
        "Made for an earlier request with the same file; taken from the cache at {time}.",
        "같은 파일에 대한 이전 요청에서 만든 보고서이며, {time}에 캐시에서 가져왔습니다.",
    ),
    "ui.question": (
        "Camera photo, edited photo or AI-made image?",
        "카메라 사진인가요, 편집된 사진인가요, AI가 만든 이미지인가요?",
    ),
    "ui.choose": ("Choose pictures", "그림 선택"),
    "ui.drop": (
        "or drop them here. The original file tells most: a resized copy or a screenshot has lost its traces.",
        "또는 여기에 끌어다 놓으세요. 원본 파일이 가장 많은 것을 말해 줍니다. 크기를 바꾸거나 캡처하면 흔적이 "
        "사라집니다.",
    ),
    "ui.empty": ("No pictures yet.", "아직 그림이 없습니다."),
    "ui.upload_failed": (
        "could not be sent. Is the command still running?",
        "보낼 수 없습니다. 명령이 아직 실행 중인가요?",
    ),
    "ui.too_large": ("is larger than {size}.", "{size}보다 큽니다."),
    "ui.working": ("Analysing …", "분석 중 …"),
    "ui.waiting": ("…", "…"),
    "ui.nothing_found": ("nothing found", "발견 없음"),
    "ui.explaining": ("The explanation is being written …", "설명 작성 중 …"),
    "ui.open": ("Open report", "보고서 열기"),
    "ui.remove": ("Remove", "삭제"),
    "ui.cancel": ("Cancel", "취소"),
    "ui.compare": ("Compare", "비교"),
    "ui.compare_this": ("compare", "비교"),
    "ui.compare_hint": ("Tick two to four reports.", "보고서를 2~4개 선택하세요."),
    "ui.choose_to_compare": ("Tick two to four reports to compare.", "비교할 보고서를 2~4개 선택하세요."),
    "ui.comparison": ("Comparison", "비교"),
    "ui.differs_note": (
        "Shaded: tests with different results. Tests that could be applied to none of the pictures are left out.",
        "음영: 결과가 다른 검사. 어느 그림에도 적용할 수 없었던 검사는 생략했습니다.",
    ),
    "ui.state": ("State", "상태"),
    "ui.reported": ("Reports", "보고서"),
    "ui.failed": ("Failed", "오류"),
    "ui.items": ("Pictures", "그림"),
    "ui.counts": (
        "{done} of {total} pictures have a report, {failed} failed",
        "{total}장 중 {done}장 보고서 완료, {failed}장 오류",
    ),
    "ui.next": ("Next page", "다음 페이지"),
    "ui.no_journal": (
        "This coordinator keeps no journal, so there are no batches to show.",
        "이 코디네이터는 저널을 기록하지 않으므로 표시할 배치가 없습니다.",
    ),
    "ui.no_batches": ("No batches yet.", "아직 배치가 없습니다."),
}


@dataclass(frozen=True)
class Labels:
    """The words of one language."""

    lang: str = "en"

    def __call__(self, key: str, **values: object) -> str:
        """The text of a key, its placeholders filled; the key's last part for tools and tests not known here."""
        texts = _LABELS.get(key)
        if texts is None:
            return key.rpartition(".")[2].replace("_", " ").capitalize()
        return texts[LANGUAGES.index(self.lang)].format(**values)
