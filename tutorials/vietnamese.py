"""The course in Vietnamese: one line for each lesson, and the table of lessons on the Vietnamese start page `vi.md`."""

from tutorials.lessons import HERE, Lesson
from tutorials.pages import TABLE

START = HERE / "vi.md"
LINES = {
    "00": "Thế giới nhỏ: mỗi điểm số có một mức trần mà bạn tự tính được",
    "01": "LoRA: hai ma trận mỏng có thể thay cho việc cập nhật toàn bộ trọng số",
    "02": "Sinh văn bản: văn bản trôi chảy chưa chắc đã đúng",
    "03": "Phân loại: đầu ra mới phải được huấn luyện, thử riêng và lưu lại",
    "04": "LoRA tiết kiệm bộ nhớ và một ít thời gian, nhưng có thể làm giảm chất lượng",
    "05": "Các biến thể của LoRA: đổi hệ số tỉ lệ, điểm bắt đầu hoặc hình dạng",
    "06": "Nhiều bộ chuyển đổi dùng chung một mô hình nền; tổng chính xác vẫn có thể mất kỹ năng",
    "07": "NF4: mười sáu mức không đều và một hệ số cho mỗi khối là đủ",
    "08": "QLoRA: LoRA học tốt không kém bên cạnh một mô hình nền 4 bit",
    "09": "LoRA hợp nhất: hàm nhân lợi ít, và phép đếm cho biết ít đến mức nào",
    "10": "Với một token, hàm nhân NF4 bị giới hạn bởi việc giải mã, không phải số byte",
    "11": "Nhiều bộ chuyển đổi trong hai lần khởi chạy: sắp xếp số thứ tự, không sắp xếp ví dụ",
    "12": "Bộ chuyển đổi nút thắt cổ chai: những mạng nhỏ bên trong mỗi lớp",
    "13": "Tinh chỉnh tiền tố và lời nhắc cần tốc độ học lớn",
    "14": "AdapterFusion: không lợi rõ rệt so với một bộ chuyển đổi được huấn luyện lâu bằng",
    "15": "Học đa nhiệm: cách lấy mẫu quyết định tác vụ nào được lợi",
    "16": "Cân bằng: các tác vụ xung đột, và trọng số bằng nhau khó bị vượt qua",
    "17": "Chưng cất: mô hình thầy biến văn bản không nhãn thành dữ liệu huấn luyện",
    "18": "Chưng cất đặc trưng: quan hệ giữa các token giúp nhiều hơn trạng thái ẩn",
    "19": "Chưng cất mô hình sinh: hướng của KL đổi sự đa dạng lấy sự đúng",
    "20": "Nén mô hình: cắt tỉa có cấu trúc tiết kiệm thời gian, lượng tử hóa tiết kiệm byte",
    "21": "Mọi phương pháp trên một biểu đồ: với tác vụ dễ, chi phí quyết định",
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
