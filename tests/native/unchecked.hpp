// For the loops of references: a sanitizer's checks of what is not under test take most of the time.
#pragma once

#define CARE_UNCHECKED [[gnu::no_sanitize("address", "thread", "undefined")]]
