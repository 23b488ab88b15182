"""Real paragraphs in many scripts: the Universal Declaration of Human Rights, and lines that mix scripts.

The Declaration's articles 1, 3 and 4 are the texts that the United Nations publish; they may be used by anyone.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ScriptSample:
    """One text whose paragraphs are parted by blank lines.

    Attributes:
        name: unique among the samples.
        lang: BCP 47 tag.
        script: ISO 15924 code of the base script.
        tesseract: the language data that read it, as Tesseract's ``-l`` takes them.
        direction: the paragraphs' base direction.
        words_by_spaces: whether words are parted by spaces.
    """

    name: str
    lang: str
    script: str
    tesseract: str
    direction: Literal["ltr", "rtl"]
    text: str
    words_by_spaces: bool = True


SAMPLES = (
    ScriptSample(
        "english",
        "en",
        "Latn",
        "eng",
        "ltr",
        "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience "
        "and should act towards one another in a spirit of brotherhood.\n\n"
        "Everyone has the right to life, liberty and security of person. No one shall be held in slavery or "
        "servitude; slavery and the slave trade shall be prohibited in all their forms.",
    ),
    ScriptSample(
        "french",
        "fr",
        "Latn",
        "fra",
        "ltr",
        "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de "
        "conscience et doivent agir les uns envers les autres dans un esprit de fraternité.\n\n"
        "Tout individu a droit à la vie, à la liberté et à la sûreté de sa personne. Nul ne sera tenu en esclavage ni "
        "en servitude; l'esclavage et la traite des esclaves sont interdits sous toutes leurs formes.",
    ),
    ScriptSample(
        "russian",
        "ru",
        "Cyrl",
        "rus",
        "ltr",
        "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью и "
        "должны поступать в отношении друг друга в духе братства.\n\n"
        "Каждый человек имеет право на жизнь, на свободу и на личную неприкосновенность. Никто не должен содержаться "
        "в рабстве или в подневольном состоянии; рабство и работорговля запрещаются во всех их видах.",
    ),
    ScriptSample(
        "greek",
        "el",
        "Grek",
        "ell",
        "ltr",
        "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα. Είναι προικισμένοι με "
        "λογική και συνείδηση, και οφείλουν να συμπεριφέρονται μεταξύ τους με πνεύμα αδελφοσύνης.\n\n"
        "Κάθε άτομο έχει δικαίωμα στη ζωή, την ελευθερία και την προσωπική του ασφάλεια. Κανείς δεν επιτρέπεται να "
        "ζει υπό καθεστώς δουλείας, ολικής ή μερικής.",
    ),
    ScriptSample(
        "arabic",
        "ar",
        "Arab",
        "ara",
        "rtl",
        "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق. وقد وهبوا عقلا وضميرا وعليهم أن يعامل بعضهم بعضا بروح "
        "الإخاء.\n\n"
        "لكل فرد الحق في الحياة والحرية وسلامة شخصه. لا يجوز استرقاق أو استعباد أي شخص، ويحظر الاسترقاق وتجارة الرقيق "
        "بكافة أوضاعهما.",
    ),
    ScriptSample(
        "persian",
        "fa",
        "Arab",
        "fas",
        "rtl",
        "تمام افراد بشر آزاد به دنیا می\u200cآیند و از لحاظ حیثیت و حقوق با هم برابرند. همه دارای عقل و وجدان "
        "می\u200cباشند و باید نسبت به یکدیگر با روح برادری رفتار کنند.\n\n"
        "هر کس حق زندگی، آزادی و امنیت شخصی دارد. هیچ\u200cکس را نمی\u200cتوان در بردگی نگه داشت و داد و ستد بردگان به "
        "هر شکلی که باشد ممنوع است.",
    ),
    ScriptSample(
        "hebrew",
        "he",
        "Hebr",
        "heb",
        "rtl",
        "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. כולם חוננו בתבונה ובמצפון, לפיכך חובה עליהם לנהוג איש "
        "ברעהו ברוח של אחווה.\n\n"
        "כל אדם יש לו הזכות לחיים, לחירות ולביטחון אישי. לא יהיה אדם עבד או משועבד; עבדות וסחר עבדים ייאסרו לכל "
        "צורותיהם.",
    ),
    ScriptSample(
        "hindi",
        "hi",
        "Deva",
        "hin",
        "ltr",
        "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। उन्हें बुद्धि और अन्तरात्मा "
        "की देन प्राप्त है और परस्पर उन्हें भाईचारे के भाव से बर्ताव करना चाहिए।\n\n"
        "प्रत्येक व्यक्ति को जीवन, स्वाधीनता और वैयक्तिक सुरक्षा का अधिकार है। कोई भी गुलामी या दासता की हालत में न रखा जाएगा, "
        "गुलामी-प्रथा और गुलामों का व्यापार अपने सभी रूपों में निषिद्ध होगा।",
    ),
    ScriptSample(
        "tamil",
        "ta",
        "Taml",
        "tam",
        "ltr",
        "மனிதப் பிறவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்; அவர்கள் மதிப்பிலும், உரிமைகளிலும் சமமானவர்கள், அவர்கள் "
        "நியாயத்தையும் மனச்சாட்சியையும் இயற்பண்பாகப் பெற்றவர்கள். அவர்கள் ஒருவருடனொருவர் சகோதர உணர்வுப் பாங்கில் "
        "நடந்துகொள்ளல் வேண்டும்.\n\n"
        "வாழ்வதற்கும் சுதந்திரத்தை உடைத்திருத்தற்கும், பாதுகாப்புக்கும் சகலரும் உரிமையுடையோர்.",
    ),
    ScriptSample(
        "thai",
        "th",
        "Thai",
        "tha",
        "ltr",
        "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม "
        "และควรปฏิบัติต่อกันด้วยเจตนารมณ์แห่งภราดรภาพ\n\n"
        "บุคคลใดจะถูกบังคับให้เป็นทาส หรืออยู่ในภาวะจำยอมใดๆ มิได้ การเป็นทาสและการค้าทาสจะมีไม่ได้ทุกรูปแบบ",
        words_by_spaces=False,
    ),
    ScriptSample(
        "chinese",
        "zh-Hans",
        "Hani",
        "chi_sim",
        "ltr",
        "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。\n\n"
        "人人有权享有生命、自由和人身安全。任何人不得使为奴隶或奴役；一切形式的奴隶制度和奴隶买卖，均应予以禁止。",
        words_by_spaces=False,
    ),
    ScriptSample(
        "japanese",
        "ja",
        "Jpan",
        "jpn",
        "ltr",
        "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。人間は、理性と良心とを授けられて"
        "おり、互いに同胞の精神をもって行動しなければならない。\n\n"
        "すべて人は、生命、自由及び身体の安全に対する権利を有する。何人も、奴隷にされ、又は苦役に服することはない。奴隷制度及び"
        "奴隷売買は、いかなる形においても禁止する。",
        words_by_spaces=False,
    ),
    ScriptSample(
        "korean",
        "ko",
        "Hang",
        "kor",
        "ltr",
        "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 인간은 천부적으로 이성과 양심을 "
        "부여받았으며 서로 형제애의 정신으로 행동하여야 한다.\n\n"
        "모든 사람은 생명과 신체의 자유와 안전에 대한 권리를 가진다. 어느 누구도 노예나 예속상태에 놓여지지 아니한다.",
    ),
    ScriptSample(
        "persian with Latin",
        "fa",
        "Arab",
        "fas+eng",
        "rtl",
        "در سال ۱۹۴۸ سازمان ملل متحد این اعلامیه را در شهر Paris تصویب کرد. متن انگلیسی آن با عنوان Universal "
        "Declaration of Human Rights منتشر شد و به بیش از 500 زبان ترجمه شده است.",
    ),
    ScriptSample(
        "english with Hebrew",
        "en",
        "Latn",
        "eng+heb",
        "ltr",
        "The Hebrew Bible opens with the words בראשית ברא אלהים and they are quoted in many books. The word שלום means "
        "peace, and it is also a greeting.",
    ),
    ScriptSample(
        "hindi with English",
        "hi",
        "Deva",
        "hin+eng",
        "ltr",
        "यह कार्यक्रम Python में लिखा गया है और Linux पर चलता है। सन 1948 में संयुक्त राष्ट्र ने इस घोषणा को स्वीकार किया।",
    ),
    ScriptSample(
        "japanese with Latin",
        "ja",
        "Jpan",
        "jpn+eng",
        "ltr",
        "このプログラムは Python で書かれており、Linux で動作します。1948年12月10日、"
        "国際連合総会は世界人権宣言を採択しました。",
        words_by_spaces=False,
    ),
)
