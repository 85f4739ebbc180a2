package webui

import (
	"net/http"
)

// login shows the form; a code in the address logs in at once.
func (u *ui) login(w http.ResponseWriter, r *http.Request) error {
	next := nextOf(r.URL.Query().Get("next"))
	if code := r.URL.Query().Get("code"); code != "" {
		if u.cfg.Access.Login(w, r, code, "") {
			http.Redirect(w, r, next, http.StatusSeeOther)
			return nil
		}
		if !u.cfg.Access.Allowed(r) {
			return u.loginPage(w, r, http.StatusForbidden, next, "The code was used already, or its time is over. Paste the access token instead, or make a new code.")
		}
	}
	if u.cfg.Access.Allowed(r) {
		http.Redirect(w, r, next, http.StatusSeeOther)
		return nil
	}
	return u.loginPage(w, r, http.StatusOK, next, "")
}

func (u *ui) loginForm(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return formError(err)
	}
	next := nextOf(r.PostForm.Get("next"))
	if !u.cfg.Access.Login(w, r, "", r.PostForm.Get("token")) {
		return u.loginPage(w, r, http.StatusForbidden, next, "This is not the access token of this server. It is the whole content of the file token in its data folder.")
	}
	http.Redirect(w, r, next, http.StatusSeeOther)
	return nil
}

func (u *ui) loginPage(w http.ResponseWriter, r *http.Request, status int, next, wrong string) error {
	u.show(w, r, status, u.page(r, "Log in"), loginPanel(next, wrong))
	return nil
}

func (u *ui) logout(w http.ResponseWriter, r *http.Request) error {
	u.cfg.Access.Logout(w)
	http.Redirect(w, r, "/login", http.StatusSeeOther)
	return nil
}

// nextOf returns where a log-in leads: a page of this server, whatever was asked.
func nextOf(s string) string {
	if !localPath(s) {
		return "/"
	}
	return s
}
