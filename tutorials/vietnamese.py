"""The course in Vietnamese: one line for each lesson, and the table of lessons on the Vietnamese start page `vi.md`."""

from tutorials.lessons import HERE, Lesson
from tutorials.pages import TABLE

START = HERE / "vi.md"
LINES = {
    "00": "Thế giới nhỏ: mỗi điểm số có một mức trần mà bạn tự tính được",
    "01": "LoRA: hai ma trận mỏng có thể thay cho việc cập nhật toàn bộ trọng số",
    "02": "Sinh văn bản: văn bản trôi chảy chưa chắc đã đúng",
    "03": "Phân loại: thiếu đầu ra, bộ chuyển đổi đúng hay ngược là do may rủi",
    "04": "LoRA hay tinh chỉnh toàn bộ: ít bộ nhớ hơn, thời gian gần như vậy, đôi khi kém hơn",
    "05": "Họ hàng của LoRA đổi hệ số, điểm xuất phát, tốc độ hoặc hình dạng của cùng một phép nhân",
    "06": "Một mô hình nền phục vụ nhiều tác vụ cùng lúc; cộng hai bộ chuyển đổi nghĩa là cộng hai tích của chúng",
    "07": "Mười sáu mức chọn khéo và một hệ số chung cho 64 số giữ được một trọng số trong 4,13 bit",
    "08": "QLoRA huấn luyện bên cạnh một trọng số 4 bit, được giải mã hai lần mỗi bước và không bao giờ được giữ lại",
    "09": "Khi được hợp nhất, LoRA chỉ tốn thêm một lần đọc x; ở lớp rộng ta được lợi một phần tư, không phải gấp bốn",
    "10": "Trọng số 4 bit chỉ chiếm một phần tư số byte, và hàm nhân của nó bị giới hạn bởi số lệnh máy",
    "11": "Hai lần khởi chạy phục vụ bao nhiêu bộ chuyển đổi cũng được, và ba hàm nhân huấn luyện chúng",
    "12": "Bộ chuyển đổi nút thắt cổ chai là một mạng nhỏ trong mỗi lớp: ít số phải học, nhưng lúc suy luận luôn phải trả giá",
    "13": "Token ảo chỉ học được với bước lớn, và chiều sâu hơn độ dài chỉ ở một số tác vụ",
    "14": "AdapterFusion học xem nên nghe ai, tốn 24 bộ chuyển đổi, và phải thắng được việc huấn luyện lâu hơn",
    "15": "Một mạng xương sống phục vụ nhiều tác vụ, và tần suất lấy mẫu từng tác vụ quyết định ai được lợi",
    "16": "Các tác vụ quả thật xung đột, thông tin mới chấm dứt được xung đột, và trọng số bằng nhau thì khó đánh bại",
    "17": "Xác suất của mô hình thầy nói nhiều hơn nhãn, và những dòng dữ liệu mà thầy trả lời quan trọng hơn nhiệt độ",
    "18": "Quan hệ giữa các token của thầy dạy một học trò hẹp nhiều bằng thêm 1.500 văn bản, trạng thái của thầy thì ít hơn",
    "19": "KL xuôi giữ mọi cách nói; KL ngược, văn bản tìm kiếm chùm và nhiệt độ viết thấp đổi bớt cách nói lấy sự đúng",
    "20": "Cắt ma trận bớt byte và thời gian, ít bit hơn bớt byte, còn số không chẳng bớt gì nếu định dạng không biết đến",
    "21": "Phần lớn phương pháp đạt cùng một điểm, nên chi phí quyết định; một hạt giống ngẫu nhiên chọn người thắng nhờ may mắn",
}


def line(lesson: Lesson) -> str:
    """A lesson's claim in Vietnamese. ValueError says which line is to be written."""
    if lesson.number not in LINES:
        raise ValueError(f"tutorials/vietnamese.py has no line for lesson {lesson.number}: {lesson.claim}")
    return LINES[lesson.number]


def minutes(lesson: Lesson) -> str:
    """`60 minutes` as `60 phút`."""
    return lesson.facts["Read and do"].replace("minutes", "phút")


def with_table(page: str, lessons: list[Lesson]) -> str:
    """The start page with the table of lessons between its two marks brought up to date."""
    if not TABLE.search(page):
        raise RuntimeError("tutorials/vi.md lacks the marks <!-- lessons --> and <!-- /lessons -->")
    rows = ["| | bài học | đọc và làm |", "|:--|:--|:--|"]
    for lesson in lessons:
        rows.append(f"| {lesson.number} | [{line(lesson)}](rendered/{lesson.page.name}) | {minutes(lesson)} |")
    return TABLE.sub(lambda found: found[1] + "\n".join(rows) + "\n" + found[2], page)
