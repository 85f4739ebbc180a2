package pipeline

import (
	"time"
)

var checkModel = object("check", Check{},
	key("name", "Name of the check.", name(), func(c *Check, v string) { c.Name = v }, required),
	key("http", "A request through the target's router.", httpCheckModel, func(c *Check, v HTTPCheck) { c.HTTP = v }, required),
	notYet[Check]("command", "verify by a command", "verify by a request: http"),
	notYet[Check]("browser", "verify in a browser", "verify by a request: http"),
	notYet[Check]("lambda", "verify by a Lambda function", "verify by a request: http"),
	notYet[Check]("ssm", "verify by an SSM automation", "verify by a request: http"),
)

var httpCheckModel = object("httpCheck", HTTPCheck{Status: 200, Timeout: 5 * time.Second, Retries: 3},
	key("path", "Path and query of the request.", text(notBlank, urlPath), func(c *HTTPCheck, v string) { c.Path = v }, required),
	key("status", "Status that must be answered.", integer(100, 599), func(c *HTTPCheck, v int) { c.Status = v }, byDefault("200")),
	key("contains", "Text that the first MiB of the body must hold.", text(notBlank, atMost(4096)), func(c *HTTPCheck, v string) { c.Contains = v }),
	key("timeout", "How long one try may take.", duration(time.Millisecond), func(c *HTTPCheck, v time.Duration) { c.Timeout = v }, byDefault("5s")),
	key("retries", "Further tries after a wrong answer.", integer(0, 100), func(c *HTTPCheck, v int) { c.Retries = v }, byDefault("3")),
)
