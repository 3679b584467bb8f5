#include "common/markup.h"

#include <gtest/gtest.h>

namespace savior {
namespace {

TEST(EscapeMarkup, LeavesTextThatMeansItselfAlone) {
  for (const char* text : {"", "plain", "a\tb\nc", "\u00e9\u20ac\U0001F600"}) {
    EXPECT_EQ(EscapeMarkup(text), text);
  }
}

TEST(EscapeMarkup, EscapesWhatWouldBeMarkup) {
  EXPECT_EQ(EscapeMarkup("<b a=\"1\" c='2'>&amp;"),
            "&lt;b a=&quot;1&quot; c=&#39;2&#39;&gt;&amp;amp;");
}

TEST(EscapeMarkup, ReplacesWhatIsNoText) {
  const std::string unknown = "\ufffd";
  EXPECT_EQ(EscapeMarkup(std::string("a\0b", 3)), "a" + unknown + "b");
  EXPECT_EQ(EscapeMarkup("\x1b[0m\r"), unknown + "[0m" + unknown);
  // Cut off, longer than need be, a surrogate, beyond the last one, not the beginning of one.
  EXPECT_EQ(EscapeMarkup("\xe2\x82"), unknown + unknown);
  EXPECT_EQ(EscapeMarkup("\xc0\xaf"), unknown + unknown);
  EXPECT_EQ(EscapeMarkup("\xe0\x80\xaf"), unknown + unknown + unknown);
  EXPECT_EQ(EscapeMarkup("\xed\xa0\x80"), unknown + unknown + unknown);
  EXPECT_EQ(EscapeMarkup("\xf4\x90\x80\x80"), unknown + unknown + unknown + unknown);
  EXPECT_EQ(EscapeMarkup("\x80z"), unknown + "z");
}

TEST(SvgText, IsEscaped) {
  EXPECT_EQ(SvgText(1, 2.25, "a<b", " class=\"c\""),
            "<text x=\"1.0\" y=\"2.2\" class=\"c\">a&lt;b</text>\n");
}

}  // namespace
}  // namespace savior
